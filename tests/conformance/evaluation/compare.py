"""lm-evaluation-harness through Shoal and through its own `hf` backend, example by example.

    python -m tests.conformance.evaluation.compare --limit 100 [--tasks arc_easy,copa]

The same weights as float32 on both sides: a GGUF file, which `transformers` turns into numbers by
itself. Choices are compared by log-likelihood and by whether they are greedy, chats by their text.
lm_eval has an environment of its own in .cache/clients/lm-eval, made at the first run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.served import ROOT, serve_process

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".cache" / "clients" / "lm-eval"
PACKAGES = ("lm-eval[api]", "torch==2.13.0", "transformers", "accelerate", "gguf", "sentencepiece")
DATA = ROOT.parent / "shared" / "data" / "evals"
SCORED = ("arc_easy", "copa", "winograd")
SAID = ("arc_easy_said",)
SCORES = ("acc", "acc_norm", "exact_match")
LIMIT = 5e-4
"""Largest difference of the log-likelihood of a whole continuation."""


@dataclass(frozen=True)
class Run:
    """One side's results of one task."""

    scores: dict[str, float]
    samples: list[dict[str, Any]]


def install() -> None:
    if not (ENVIRONMENT / "bin/lm_eval").exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        pip = [ENVIRONMENT / "bin/python", "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(pip, check=True)


def evaluate(
    backend: str, given: dict[str, str], task: str, limit: int, folder: Path, *flags: str
) -> Run:
    """Runs lm_eval. Raises CalledProcessError."""
    out = folder / backend / task
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    for source in (HERE / "tasks").glob("*.yaml"):
        (tasks / source.name).write_text(source.read_text().replace("DATA", str(DATA)))
    command = [
        str(ENVIRONMENT / "bin/lm_eval"), "run", "--model", backend,
        "--model_args", ",".join(f"{name}={value}" for name, value in given.items()),
        "--tasks", f"shoal_{task}", "--include_path", str(tasks), "--limit", str(limit),
        "--output_path", str(out), "--log_samples", *flags,
    ]  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none",
                   "HF_DATASETS_CACHE": str(folder / "datasets")}  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"lm_eval failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_*.jsonl")
    found = json.loads(results.read_text())["results"][f"shoal_{task}"]
    scores = {name: found[f"{name},none"] for name in SCORES if f"{name},none" in found}
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    return Run(scores, sorted(lines, key=lambda sample: sample["doc_id"]))


def differences(ours: Run, theirs: Run) -> Iterator[tuple[float, bool]]:
    """Of every choice: the difference of its log-likelihood, and whether `is greedy` agrees."""
    for our, their in zip(ours.samples, theirs.samples, strict=True):
        assert our["doc_id"] == their["doc_id"]
        for (a,), (b,) in zip(our["resps"], their["resps"], strict=True):
            yield abs(float(a[0]) - float(b[0])), str(a[1]) == str(b[1])


def same_texts(ours: Run, theirs: Run) -> int:
    return sum(
        our["resps"] == their["resps"]
        for our, their in zip(ours.samples, theirs.samples, strict=True)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=100, help="questions of each task")
    parser.add_argument("--tasks", default=",".join((*SCORED, *SAID)))
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "smollm2.gguf")
    arguments = parser.parse_args()
    install()
    name = arguments.model.stem
    hf = {"pretrained": str(arguments.model.parent), "gguf_file": arguments.model.name,
          "dtype": "float32"}  # fmt: skip
    print("| task | questions | Shoal | hf | largest difference | greedy flags equal |")
    print("|---|---|---|---|---|---|")
    is_good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        flags = ("--dtype", "float32")
        with serve_process(arguments.model, *flags, log_folder=folder) as server:
            for task in arguments.tasks.split(","):
                is_good &= compare(task, name, server.url, hf, arguments.limit, folder)
    return 0 if is_good else 1


def compare(task: str, name: str, url: str, hf: dict[str, str], limit: int, folder: Path) -> bool:
    """Prints a row of the table."""
    if task in SAID:
        given = {"model": name, "base_url": f"{url}/v1/chat/completions", "num_concurrent": "8"}
        ours = evaluate(
            "local-chat-completions", given, task, limit, folder, "--apply_chat_template"
        )
        theirs = evaluate("hf", hf, task, limit, folder, "--apply_chat_template")
        num_same = same_texts(ours, theirs)
        num = len(ours.samples)
        print(f"| {task} (chat) | {num} | {ours.scores} | {theirs.scores} | {num_same} of {num} "
              "texts equal | |", flush=True)  # fmt: skip
        return num_same == num
    given = {"model": name, "base_url": f"{url}/v1/completions", "num_concurrent": "4",
             "tokenizer_backend": "remote"}  # fmt: skip
    ours = evaluate("local-completions", given, task, limit, folder, "--batch_size", "8")
    theirs = evaluate("hf", hf, task, limit, folder)
    found = list(differences(ours, theirs))
    worst = max(difference for difference, _ in found)
    num_same = sum(is_same for _, is_same in found)
    print(f"| {task} | {len(ours.samples)} | {ours.scores} | {theirs.scores} | {worst:.1e} | "
          f"{num_same} of {len(found)} |", flush=True)  # fmt: skip
    return worst <= LIMIT and num_same == len(found)


if __name__ == "__main__":
    sys.exit(main())
