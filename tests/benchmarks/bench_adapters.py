"""Throughput with many adapters at once, against the base model alone, through HTTP.

Starts one server that has the base and random adapters of it, and drives it from this process:
    python -m tests.benchmarks.bench_adapters --model models/minnow --adapters 16 --clients 32
    python -m tests.benchmarks.bench_adapters --model 135m
Rounds of both sides take turns; the ratio is taken within each round, and the median counts. Beside
the ratio of tokens a second stands that of tokens per second of the engine's CPU time, which a busy
machine disturbs less.
"""

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path

from shoal.commands.bench.http import parse_address
from shoal.commands.bench.load import LoadClient, Workload
from tests.benchmarks.bench_http import drive
from tests.benchmarks.serving import ROOT, child_of, cpu_s, serving
from tests.fakes.tiny_adapters import ALL_TARGETS, write_adapter
from tests.fakes.tiny_models import write_tiny_model

SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""The sizes of SmolLM2-135M."""


async def measure(
    port: int, pid: int, sides: dict[str, list[str]], tokens: int, words: int, rounds: int
) -> list[dict[str, tuple[float, float]]]:
    """Per round and side: tokens a second, and tokens per second of the engine's CPU time."""
    engine = child_of(pid)
    address = parse_address(f"http://127.0.0.1:{port}")
    clients = {
        side: [
            LoadClient(Workload(address=address, model=name, max_tokens=tokens, prompt_words=words))
            for name in names
        ]
        for side, names in sides.items()
    }
    for side in sides:
        await drive(clients[side], f"warm-{side}", 1)
    results = []
    for turn in range(rounds):
        found: dict[str, tuple[float, float]] = {}
        for side in sides:
            before = cpu_s(engine)
            records = await drive(clients[side], f"{side}-{turn}", 2)
            spent = cpu_s(engine) - before
            count = sum(len(record.token_times) for record in records)
            took = max(r.ended_at for r in records) - min(r.sent_at for r in records)
            found[side] = (count / took, count / spent)
        results.append(found)
    for client in (client for side in clients.values() for client in side):
        client.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "models" / "minnow"), help="or 135m: random")
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="per answer")
    parser.add_argument("--words", type=int, default=8, help="of a prompt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve-flags", default="", help="more flags for `shoal serve`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(options.model)
        if options.model == "135m":
            base = write_tiny_model(Path(folder) / "base", stored="BF16", **SMOLLM2)
        flags = options.serve_flags.split()
        names = [f"adapter-{number}" for number in range(options.adapters)]
        for number, name in enumerate(names):
            path = write_adapter(
                Path(folder) / name, base, targets=ALL_TARGETS, rank=options.rank, seed=number
            )
            flags += ["--adapter", f"{path}@base"]
        sides = {
            "base": ["base"] * options.clients,
            "adapters": [names[i % len(names)] for i in range(options.clients)],
        }
        with serving([f"base={base}"], *flags) as (server, port):
            results = asyncio.run(
                measure(port, server.pid, sides, options.tokens, options.words, options.rounds)
            )
    for index, unit in enumerate(("tokens/s", "tokens per engine CPU second")):
        rates = {side: statistics.median(r[side][index] for r in results) for side in sides}
        ratio = statistics.median(r["adapters"][index] / r["base"][index] for r in results)
        print(
            f"{options.adapters} adapters of rank {options.rank}, {options.clients} clients: "
            f"{rates['adapters']:.0f} {unit}, base alone {rates['base']:.0f}, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
