"""One GGUF file on Shoal and on llama-server: throughput and first token, streamed, side by side.

`python -m tests.benchmarks.bench_gguf models/smollm2.gguf` starts both servers in turn for several
rounds (the order turns round each time) and prints medians and ratios. llama-server is built once
as for `make bench-peers`, or given. Its every slot has its own KV buffer; ours runs as it is. Loads
only servers it started itself, on loopback.
"""

import argparse
import shlex
import statistics
from dataclasses import replace
from pathlib import Path

from shoal.commands.machine import describe

from .peers import llama_server, ours
from .peers.measure import Level, LevelResult, Window, run_server
from .peers.process import Command, Contender
from .peers.shapes import SHAPES, Load, Shape

NAME = "file"  # of the model on our server
CLIENTS = (1, 8, 32)


def contenders(file: Path, server: Path, flags: list[str]) -> list[Contender]:
    """Shoal with these flags, and llama-server with as many slots as clients."""

    def mine(shape: Shape, slots: int) -> Command:
        return ours.command(file, NAME, *flags)

    def theirs(shape: Shape, slots: int) -> Command:
        return llama_server.command(server, file, slots, shape.load.context)

    return [
        Contender("Shoal", "shoal", file.stem, mine, per_level=True),
        Contender("llama-server", "llama", file.stem, theirs, per_level=True, keep_alive=False),
    ]


def report(results: list[LevelResult], clients: list[int]) -> str:
    """Medians over the rounds, ratios of medians, and the range of each round's own ratio."""
    names = ("clients", "Shoal tok/s", "llama-server tok/s", "ratio (range)",
             "first token p50, ms", "ratio")  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for count in clients:
        of = {
            name: sorted(
                (r for r in results if r.server == name and r.clients == count),
                key=lambda r: r.round,
            )
            for name in ("Shoal", "llama-server")
        }
        rates = {name: statistics.median(r.tokens_per_s for r in rs) for name, rs in of.items()}
        first = {name: statistics.median(r.ttft_p50_ms or 0 for r in rs) for name, rs in of.items()}
        each = [
            a.tokens_per_s / b.tokens_per_s
            for a, b in zip(of["Shoal"], of["llama-server"], strict=True)
        ]
        lines.append(
            f"| {count} | {rates['Shoal']:.0f} | {rates['llama-server']:.0f} "
            f"| {rates['Shoal'] / rates['llama-server']:.2f} ({min(each):.2f} to {max(each):.2f}) "
            f"| {first['Shoal']:.0f} / {first['llama-server']:.0f} "
            f"| 1/{first['llama-server'] / max(first['Shoal'], 1e-9):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("file", type=Path)
    add("--rounds", type=int, default=3)
    add("--clients", default=",".join(map(str, CLIENTS)), help="as 1,8,32")
    add("--words", type=int, default=64, help="of a prompt")
    add("--tokens", type=int, default=128, help="of an answer")
    add("--waves", type=int, default=2, help="requests per client")
    add("--flags", default="", help="further ones of `shoal serve`, in one argument")
    add("--llama-server", type=Path, help="this program instead of building one")
    options = parser.parse_args()
    clients = [int(count) for count in options.clients.split(",")]
    load = Load(options.words, options.tokens, waves=options.waves)
    shape = replace(SHAPES["135m"], name=NAME, load=load)
    server = llama_server.find_server(options.llama_server)
    both = contenders(options.file.resolve(), server, shlex.split(options.flags))
    results: list[LevelResult] = []
    for number in range(options.rounds):
        for contender in both if number % 2 == 0 else both[::-1]:
            starts, found = run_server(
                contender, shape, [Level(count) for count in clients], Window(0.0, number)
            )
            results += found
            rates = ", ".join(f"{r.clients}: {r.tokens_per_s:.0f}" for r in found)
            memory = max(start.memory_after_mib for start in starts)
            print(f"round {number}, {contender.name}: {rates} tok/s, {memory:.0f} MiB", flush=True)
    machine = describe()
    print(f"\n{machine['cpu_model']}, {machine['usable_cores']:g} cores; "
          f"llama-server {llama_server.version(server)}\n\n{report(results, clients)}")  # fmt: skip


if __name__ == "__main__":
    main()
