"""Runs inside OpenVINO's environment: continuous batching in process, whole batches of prompts.

Reads one JSON object from standard input (see `openvino.Job`) and prints one JSON line for the
first token and one for each batch size. Imports nothing of ours: that environment lacks it.
"""

import importlib
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.load(sys.stdin)
    genai = importlib.import_module("openvino_genai")
    pipeline = _load(genai, job)
    prompts = itertools.cycle(job["prompts"])
    _generate(genai, pipeline, prompts, 1, 1)
    ready = {"first_token_s": time.monotonic() - job["started_at"], "memory_mib": _memory_mib()}
    print(json.dumps(ready), flush=True)
    for batch in job["batches"]:
        _generate(genai, pipeline, prompts, batch, 8)
        rate, num_done = _rate(genai, pipeline, prompts, batch, job)
        line = {"batch": batch, "tokens_per_s": rate, "num_completed": num_done}
        print(json.dumps({**line, "memory_mib": _memory_mib()}), flush=True)


def _load(genai: Any, job: dict[str, Any]) -> Any:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = job["cache_gb"]
    scheduler.max_num_seqs = max(job["batches"])
    scheduler.max_num_batched_tokens = job["batched_tokens"]
    scheduler.enable_prefix_caching = False  # no prompt comes twice
    properties = {
        "INFERENCE_NUM_THREADS": job["threads"],
        "INFERENCE_PRECISION_HINT": job["hint"],
        "PERFORMANCE_HINT": "THROUGHPUT" if job["streams"] > 1 else "LATENCY",
        "NUM_STREAMS": job["streams"],
    }
    return genai.ContinuousBatchingPipeline(job["model"], scheduler, "CPU", properties)


def _generate(genai: Any, pipeline: Any, prompts: Iterator[str], batch: int, tokens: int) -> None:
    """One batch, every answer exactly `tokens` long. Raises RuntimeError when it is not."""
    config = genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.min_new_tokens = 0
    config.ignore_eos = True
    config.do_sample = False
    config.apply_chat_template = False
    answers = pipeline.generate([next(prompts) for _ in range(batch)], [config] * batch)
    if len(answers) != batch:
        raise RuntimeError(f"{len(answers)} answers to {batch} prompts")
    produced = answers[0].perf_metrics.get_num_generated_tokens()  # of the whole batch
    if produced != batch * tokens:
        raise RuntimeError(f"{produced} instead of {batch * tokens} tokens")


def _rate(
    genai: Any, pipeline: Any, prompts: Iterator[str], batch: int, job: dict[str, Any]
) -> tuple[float, int]:
    """Output tokens per second, prefill counted, over whole batches; at least two of one prompt."""
    num_done = 0
    started = time.perf_counter()
    while True:
        _generate(genai, pipeline, prompts, batch, job["tokens"])
        num_done += batch
        passed = time.perf_counter() - started
        if num_done >= 2 and passed >= job["duration_s"]:
            return num_done * job["tokens"] / passed, num_done


def _memory_mib() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    main()
