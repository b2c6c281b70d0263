"""What the receipt costs each step, and what a trace costs a row that asks for one.

Runs a model's engine in this process, without HTTP, and counts its CPU time, so other work on the
machine does little harm; both sides in turn, the median of several rounds counts:
    python -m tests.benchmarks.bench_glass --model models/minnow --rows 32 --rounds 9
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.bridge.engine_client import Dispatcher
from shoal.engine.core import EngineCore
from shoal.engine.scheduler import Scheduler
from shoal.protocol import codec
from shoal.protocol.messages import EngineConfig, ModelSource, StepOutputs, Submit
from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import LoadedRunner
from shoal.runner.load import load_runner

NUM_STEPS = 100


class Ignoring:
    """A sink that keeps only what it heard last."""

    heard: object = None

    def push(self, *args: object, **named: object) -> None:
        self.heard = args, named

    def note_progress(self, *args: object) -> None:
        self.heard = args

    def fail(self, error: Exception) -> None:
        raise error


def step_cpu_s(
    model: LoadedRunner, config: EngineConfig, num_rows: int, traces: int, seq_id: int,
    cpu_clock: Callable[[], float],
) -> float:  # fmt: skip
    """CPU seconds of a decode step: engine, both ends of the frame, delivery."""
    core = EngineCore({model.loaded.name: model}, config, time.monotonic, cpu_clock)
    dispatcher = Dispatcher()
    for row in range(num_rows):
        output = OutputParams(trace=5 if row < traces else None)
        stop = StopParams(NUM_STEPS + 20)
        sampling = SamplingParams(seed=row, temperature=0.8, top_p=0.95)
        prompt = [row + 5] * 8
        core.add(Submit(seq_id + row, model.loaded.name, prompt, sampling, stop, output))
        dispatcher.add(seq_id + row, Ignoring())

    def step() -> None:
        outputs = core.step()
        assert outputs is not None
        decoded = codec.decode_from_engine(codec.encode(outputs)[5:])
        assert isinstance(decoded, StepOutputs)
        dispatcher.deliver(decoded)

    for _ in range(10):
        step()
    began = time.process_time()
    for _ in range(NUM_STEPS):
        step()
    spent = time.process_time() - began
    while core.has_work:
        step()
    return spent / NUM_STEPS


@contextmanager
def without_receipt() -> Iterator[Callable[[], float]]:
    """No clock is read, nothing is sent."""
    take_cpu_s = Scheduler.take_cpu_s
    Scheduler.take_cpu_s = lambda self: {}  # type: ignore[method-assign]
    try:
        yield lambda: 0.0
    finally:
        Scheduler.take_cpu_s = take_cpu_s  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/minnow"))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    config = EngineConfig(models=(), max_batch_size=options.rows, num_threads=1)
    source = ModelSource("m", str(options.model))
    seq_id = 1
    times: dict[str, list[float]] = {}

    def run(name: str, cpu_clock: Callable[[], float], traces: int = 0) -> None:
        nonlocal seq_id
        model = load_runner(source, config, config.kv_cache_bytes, lambda progress: None)
        spent = step_cpu_s(model, config, options.rows, traces, seq_id, cpu_clock)
        times.setdefault(name, []).append(spent)
        seq_id += options.rows

    for _ in range(options.rounds):
        with without_receipt() as no_clock:
            run("no receipt", no_clock)
        run("receipt", time.process_time)
        run("receipt, one row with a trace", time.process_time, 1)
        run("receipt, all rows with a trace", time.process_time, options.rows)
    base = statistics.median(times["no receipt"])
    for name, values in times.items():
        ratios = [value / other for value, other in zip(values, times["no receipt"], strict=True)]
        print(
            f"{name:34} {statistics.median(values) * 1e6:9.0f} us a step"
            f" {statistics.median(ratios) - 1:+8.2%}"
        )
    print(f"{options.rows} rows of {options.model}: {base * 1e6:.0f} us of CPU time a step")


if __name__ == "__main__":
    main()
