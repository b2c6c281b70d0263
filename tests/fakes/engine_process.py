"""The real engine process on fake runners: `python tests/fakes/engine_process.py FD`.

A model's path is a query string of numbers, for instance "step_s=0.01&num_blocks=32"; where it is
a folder, the string is an argument before FD. Faults are asked for by prompts: a sequence whose
first token is the number given as `crash_token`, `raise_token`, `hang_token` or `nan_token` kills
the process, fails the step, hangs or fails alone; `spin_token` hangs it in Python, `block_token` in
C code that never lets Python run. With `die_at_start` it never serves.
"""

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "service"), str(ROOT)]

from shoal.engine.process import main  # noqa: E402
from shoal.errors import ModelFolderError  # noqa: E402
from shoal.protocol.messages import EngineConfig, ModelSource  # noqa: E402
from shoal.protocol.step import LoadedRunner, StepPlan  # noqa: E402
from tests.fakes.fake_runner import FakeRunner, loaded_model  # noqa: E402


def load_fake(
    source: ModelSource,
    config: EngineConfig,
    kv_bytes: int,
    on_progress: Callable[[float], None],
) -> LoadedRunner:
    """One KV block for each KiB of its share, unless `num_blocks` says otherwise."""
    query = source.path if len(sys.argv) < 3 else sys.argv[1]
    options = {name: float(value) for name, value in parse_qsl(query)}
    if "die_at_start" in options:
        os._exit(9)
    for percent in range(0, 101, 10):
        on_progress(percent / 100)
        time.sleep(options.get("load_s", 0.0) / 11)
    if "missing" in options:
        raise ModelFolderError("config.json is missing")
    if "broken" in options:
        raise ValueError("a mistake in the loader")
    num_blocks = int(options.get("num_blocks", kv_bytes // 1024))
    runner = FakeRunner(
        num_blocks,
        config.block_size,
        int(options.get("vocab_size", 64)),
        step_s=options.get("step_s", 0.0),
        before_step=lambda plan: _fault(plan, options),
        row_error=lambda seq_id, token_ids: (
            "numerical_error" if token_ids[0] == options.get("nan_token") else None
        ),
    )
    max_model_len = int(options.get("max_model_len", 4096))
    loaded = loaded_model(source.name, runner.vocab_size, max_model_len)
    return LoadedRunner(runner, loaded, num_blocks)


def _fault(plan: StepPlan, options: dict[str, float]) -> None:
    for new in plan.new_rows:
        first = new.token_ids[0]
        if first == options.get("crash_token"):
            os.abort()
        if first == options.get("raise_token"):
            raise RuntimeError("a mistake in the runner")
        if first == options.get("hang_token"):
            time.sleep(3600)
        if first == options.get("spin_token"):
            _spin()
        if first == options.get("block_token"):
            ctypes.PyDLL(None).sleep(3600)


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[-1]), load=load_fake))
