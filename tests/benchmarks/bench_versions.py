"""This version of Shoal beside another one: both sides in turn in one run, and their ratio.

    git worktree add ../before COMMIT && make -C ../before setup
    python -m tests.benchmarks.bench_versions --other ../before/.venv/bin/python

Every round starts both servers one after the other, the first one changing each time, under the
same streamed load. Prints each round's tokens per second and, for every number of clients, the
median of the rounds' ratios (this version / the other), of the first token's time as well.
"""

import argparse
import statistics
import sys
from pathlib import Path

from shoal.commands.machine import describe

from .peers.measure import Level, Window, run_server
from .peers.process import Command, Contender
from .peers.shapes import SHAPES, Shape, model_folder

_SERVE = ["-m", "shoal", "serve", "--port", "{port}", "--log-level", "warning"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--other", type=Path, required=True, help="Python of the other version")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="14m")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of each level")
    parser.add_argument("--quantize", default="none")
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    levels = [Level(int(count)) for count in options.clients.split(",")]
    flags = ("--quantize", options.quantize)
    sides = [
        _contender("this", sys.executable, shape, flags),
        _contender("other", str(options.other.absolute()), shape, flags),
    ]
    rates: dict[str, list[list[float]]] = {"this": [], "other": []}
    waits: dict[str, list[list[float]]] = {"this": [], "other": []}  # of first tokens, in ms
    machine = describe()
    print(f"{machine['cpu_model']}, {machine['usable_cores']:g} cores, {shape.name}")
    for number in range(options.rounds):
        for side in sides if number % 2 == 0 else sides[::-1]:
            _, results = run_server(side, shape, levels, Window(options.duration, number))
            rates[side.name].append([result.tokens_per_s for result in results])
            waits[side.name].append([result.ttft_p50_ms or float("nan") for result in results])
            shown = ", ".join(f"{r.clients}: {r.tokens_per_s:,.0f}" for r in results)
            print(f"round {number}, {side.name:5}: {shown} tokens/s", flush=True)
    for at, level in enumerate(levels):
        for what, sides_of in (("tokens/s", rates), ("first token p50", waits)):
            pairs = zip(sides_of["this"], sides_of["other"], strict=True)
            ratios = [this[at] / other[at] for this, other in pairs]
            print(
                f"{level.clients} clients, {what}: ratio {statistics.median(ratios):.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f})"
            )


def _contender(name: str, python: str, shape: Shape, flags: tuple[str, ...]) -> Contender:
    model = ["--model", f"{shape.name}={model_folder(shape)}"]
    command = Command([python, *_SERVE, *model, *flags])
    return Contender(name, "shoal", "bf16", lambda shape, slots: command)


if __name__ == "__main__":
    main()
