"""GuideLLM, by its command: 40 synthetic requests from 8 streams at once, each form streamed."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import MODEL, URL, check, feature, run

TOKENIZER = Path(__file__).parents[3] / "models" / "minnow"
"""Counts the tokens of synthetic prompts; any tokenizer does."""
NUM_REQUESTS, OUTPUT_TOKENS = 40, 32


def benchmark(form: str) -> None:
    """Every request is answered, with exactly as many tokens as were asked for."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [
            Path(sys.executable).with_name("guidellm"), "run", "--disable-console",
            "--backend", f"kind=openai_http,target={URL},model={MODEL},request_format={form}",
            "--profile", "kind=concurrent,streams=8",
            "--constraint", f"kind=max_requests,count={NUM_REQUESTS}",
            "--data", f"kind=synthetic_text,prompt_tokens=48,output_tokens={OUTPUT_TOKENS}",
            "--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}",
            "--output", f"kind=json,path={out}",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=folder,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        check(done.returncode == 0, done.stderr[-400:])
        (found,) = json.loads(out.read_text())["benchmarks"]
    totals = found["metrics"]["request_totals"]
    check(totals["successful"] == NUM_REQUESTS and totals["errored"] == 0, totals)
    tokens = found["metrics"]["output_token_count"]["successful"]
    check(tokens["min"] == tokens["max"] == OUTPUT_TOKENS, tokens)


@feature("completions streamed")
def completions() -> None:
    benchmark("/v1/completions")


@feature("chat streamed")
def chat() -> None:
    benchmark("/v1/chat/completions")


@feature("responses streamed")
def responses() -> None:
    benchmark("/v1/responses")


run()
