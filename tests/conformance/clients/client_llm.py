"""simonw's llm, by its command with a model of its OpenAI-compatible settings file."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import MODEL, URL, check, feature, run

FOLDER = Path(tempfile.mkdtemp())
(FOLDER / "extra-openai-models.yaml").write_text(
    f"- model_id: shoal\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  api_key_name: shoal\n"
    "  supports_tools: true\n  supports_schema: true\n"
)
(FOLDER / "keys.json").write_text('{"shoal": "none"}')


def ask(*arguments: str) -> str:
    command = Path(sys.executable).with_name("llm")
    done = subprocess.run(
        [command, "-m", "shoal", *arguments], capture_output=True, text=True, timeout=120,
        env={**os.environ, "LLM_USER_PATH": str(FOLDER)},
    )  # fmt: skip
    check(done.returncode == 0, done.stderr[-400:])
    return done.stdout


@feature("chat")
def chat() -> None:
    check(ask("Say hello.", "--no-stream", "-o", "max_tokens", "20").strip(), "nothing")


@feature("chat streamed")
def streamed() -> None:
    check(ask("Say hello.", "-o", "max_tokens", "20").strip(), "nothing")


@feature("structured output")
def structured() -> None:
    text = ask("Bob is 30.", "--schema", "name, age int", "--no-stream", "-o", "max_tokens", "200")
    check('"age"' in text, text)


run()
