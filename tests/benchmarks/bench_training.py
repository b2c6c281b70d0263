"""Fine-tuning by `shoal train` beside `transformers` and `peft`, on the same rows.

    python -m tests.benchmarks.bench_training --base models/smollm2.gguf --rounds 3

Every run is a process of its own. Rows, passes, rows in a step, rate, rank and cores are the
same; the other side is `transformers_training.py`, in the number format that is the fastest there
in a few steps. Both sides take turns; the table has medians of the rounds. Tokens are those of the
rows, without padding, over the time of all steps; wall time and memory are of the whole process.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.dequantized_folder import write_dequantized
from tests.benchmarks.process_cost import run_measured
from tests.benchmarks.serving import ROOT
from tests.train.taught.pirate import make_pairs, write_pairs
from tests.train.taught.training import logged_steps

PROBED_STEPS = 4
FORMATS = {"lora": ("float32", "autocast", "bfloat16"), "whole": ("float32", "autocast")}
"""Of the other side, by what is trained. All weights in bfloat16 are left out: the small steps of
a fine-tuning rate are lost in their rounding."""
OURS, THEIRS = "shoal train", "transformers"


@dataclass(frozen=True, slots=True)
class Measured:
    """One process. `last_loss`: nats per learned token, mean over the steps of the last pass."""

    steps: int
    tokens: int
    loop_s: float
    last_loss: float
    wall_s: float
    peak_mib: float

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.loop_s


@dataclass(frozen=True, slots=True)
class Work:
    """What both sides do. `folder`: the base for the other side."""

    base: str
    folder: Path
    rows: Path
    options: argparse.Namespace

    @property
    def rate(self) -> dict[str, float]:
        return {"lora": self.options.lora_lr, "whole": self.options.lr}

    def common(self, way: str) -> list[str]:
        """Flags that both sides spell alike."""
        options = self.options
        flags = ["--lora-rank", str(options.lora_rank)] if way == "lora" else []
        flags += ["--epochs", str(options.epochs), "--batch-size", str(options.batch_size)]
        return [*flags, "--lr", str(self.rate[way])]

    def environment(self) -> dict[str, str]:
        return {
            "OMP_NUM_THREADS": str(self.options.threads),
            "PYTHONPATH": f"{ROOT / 'service'}:{ROOT}",
        }


def ours(work: Work, way: str) -> Measured:
    """`shoal train`, which also answers five questions before and after."""
    with tempfile.TemporaryDirectory() as temporary:
        run_dir = Path(temporary) / "run"
        command = [sys.executable, "-m", "shoal", "train", "--from", work.base]
        command += ["--data", str(work.rows), "--out", f"{temporary}/out", "--eval-share", "0"]
        command += ["--run-dir", str(run_dir), *work.common(way)]
        cost = run_measured(command, cwd=ROOT, environment=work.environment())
        return from_log(logged_steps(run_dir), work.options.epochs, cost.wall_s, cost.peak_mib)


def from_log(lines: list[dict[str, Any]], epochs: int, wall_s: float, peak_mib: float) -> Measured:
    """`lines`: of a run's log, whose `tokens` are counted from its beginning."""
    steps = [line for line in lines if "loss" in line]
    before = [0, *(line["tokens"] for line in steps)]
    loop_s = sum(
        (line["tokens"] - earlier) / line["tokens_per_s"]
        for line, earlier in zip(steps, before, strict=False)
    )
    last = steps[-(len(steps) // epochs) :]
    return Measured(
        len(steps),
        steps[-1]["tokens"],
        loop_s,
        statistics.fmean(line["loss"] for line in last),
        wall_s,
        peak_mib,
    )


def theirs(work: Work, way: str, number_format: str, max_steps: int | None = None) -> Measured:
    """The other side, result written as well."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "tests.benchmarks.transformers_training"]
        command += ["--base", str(work.folder), "--rows", str(work.rows), *work.common(way)]
        command += ["--format", number_format, "--threads", str(work.options.threads)]
        if max_steps is None:
            command += ["--out", f"{temporary}/out"]
        else:
            command += ["--max-steps", str(max_steps)]
        cost = run_measured(command, cwd=ROOT, environment=work.environment())
    report = json.loads(cost.output.splitlines()[-1])
    return Measured(**report, wall_s=cost.wall_s, peak_mib=cost.peak_mib)


def fastest_format(work: Work, way: str) -> str:
    """Of the other side, over a few steps."""
    speeds = {name: theirs(work, way, name, PROBED_STEPS).tokens_per_s for name in FORMATS[way]}
    told = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    print(f"{way}, {THEIRS}, tokens/s over {PROBED_STEPS} steps: {told}", flush=True)
    return max(speeds, key=lambda name: speeds[name])


def table(results: dict[tuple[str, str], list[Measured]]) -> str:
    """Markdown, medians. (what is trained, side) -> its rounds."""
    head = ["", "steps", "tokens/s", "ratio", "last loss", "wall s", "peak MiB"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    ways = dict.fromkeys(way for way, _ in results)
    for way in ways:
        speeds = {
            side: statistics.median(each.tokens_per_s for each in found)
            for (its_way, side), found in results.items()
            if its_way == way
        }
        slowest = min(speeds, key=lambda side: side == OURS)
        for side, speed in speeds.items():
            found = results[way, side]
            lines.append([
                f"{way}, {side}",
                str(found[0].steps),
                f"{speed:.0f}",
                f"{speed / speeds[slowest]:.2f}",
                f"{statistics.median(each.last_loss for each in found):.3f}",
                f"{statistics.median(each.wall_s for each in found):.0f}",
                f"{statistics.median(each.peak_mib for each in found):.0f}",
            ])  # fmt: skip
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@contextmanager
def _work(options: argparse.Namespace) -> Iterator[Work]:
    with tempfile.TemporaryDirectory() as temporary:
        rows, folder = Path(temporary) / "pairs.jsonl", Path(temporary) / "base"
        write_pairs(rows, make_pairs(options.rows, seed=0))
        if options.base.is_dir():
            folder = options.base.absolute()
        else:
            write_dequantized(options.base, folder)
        yield Work(str(options.base.absolute()), folder, rows, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", type=Path, default=ROOT / "models" / "smollm2.gguf", help="folder or GGUF file")
    add("--ways", default="lora,whole", help="lora, whole or both")
    add("--rounds", type=int, default=3)
    add("--rows", type=int, default=200)
    add("--epochs", type=int, default=3)
    add("--batch-size", type=int, default=8)
    add("--lora-rank", type=int, default=16)
    add("--lora-lr", type=float, default=5e-4)
    add("--lr", type=float, default=1e-4, help="with all weights")
    add("--threads", type=int, default=2, help="and cores")
    return parser


def main() -> None:
    options = _parser().parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    results: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    ways = options.ways.split(",")
    with _work(options) as work:
        formats = {way: fastest_format(work, way) for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                for side, measured in (
                    (OURS, lambda way=way: ours(work, way)),
                    (f"{THEIRS}, {formats[way]}", lambda way=way: theirs(work, way, formats[way])),
                ):
                    found = measured()
                    results[way, side].append(found)
                    print(f"{way}, {side}: {found}", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
