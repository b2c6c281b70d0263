"""CPU time that the HTTP process spends per streamed chunk, at several numbers of clients.

Starts a server of its own with a real engine and drives it from this process:
    python -m tests.benchmarks.bench_http --model models/minnow --clients 1 8 32
Whole requests are counted: parsing, tokenizing and the end of a stream are in the figure. Several
rounds per level; the median counts. CPU time, not wall time, so a busy machine matters less.
"""

import argparse
import asyncio
import statistics
from pathlib import Path

from shoal.commands.bench.http import parse_address
from shoal.commands.bench.load import LoadClient, RequestRecord, Workload
from tests.benchmarks.serving import ROOT, child_of, cpu_s, serving


async def drive(clients: list[LoadClient], label: str, num_requests: int) -> list[RequestRecord]:
    """Every client sends so many requests, one after another."""

    async def one(number: int, client: LoadClient) -> list[RequestRecord]:
        return [await client.send(f"{label}-{number}-{turn}") for turn in range(num_requests)]

    answered = await asyncio.gather(*(one(*pair) for pair in enumerate(clients)))
    records = [record for batch in answered for record in batch]
    if failed := [record.error for record in records if record.error is not None]:
        raise SystemExit(f"{len(failed)} requests failed, first: {failed[0]}")
    return records


async def measure(
    work: Workload, pid: int, num_clients: int, num_chunks: int, rounds: int
) -> list[tuple[float, float, float]]:
    """Per round: CPU microseconds per chunk of the server and of its engine, chunks a second."""
    clients = [LoadClient(work) for _ in range(num_clients)]
    num_requests = max(1, round(num_chunks / num_clients / work.max_tokens))
    engine = child_of(pid)
    results = []
    try:
        await drive(clients, f"warm-{num_clients}", 1)
        for turn in range(rounds):
            before, engine_before = cpu_s(pid), cpu_s(engine)
            records = await drive(clients, f"{num_clients}-{turn}", num_requests)
            spent, engine_spent = cpu_s(pid) - before, cpu_s(engine) - engine_before
            chunks = sum(len(record.token_times) for record in records)
            took = max(r.ended_at for r in records) - min(r.sent_at for r in records)
            results.append((spent / chunks * 1e6, engine_spent / chunks * 1e6, chunks / took))
    finally:
        for client in clients:
            client.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "models" / "minnow"))
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=128, help="per answer")
    parser.add_argument("--chunks", type=int, default=8192, help="per round, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--api", choices=["completions", "chat"], default="completions")
    parser.add_argument("--serve-flags", default="", help="more flags for `shoal serve`")
    options = parser.parse_args()
    with serving([options.model], *options.serve_flags.split()) as (server, port):
        for num_clients in options.clients:
            work = Workload(
                address=parse_address(f"http://127.0.0.1:{port}"),
                model=Path(options.model).name,
                api=options.api,
                max_tokens=options.tokens,
            )
            rounds = asyncio.run(
                measure(work, server.pid, num_clients, options.chunks, options.rounds)
            )
            costs, engine_costs, rates = zip(*rounds, strict=True)
            print(
                f"{num_clients:4d} clients: {statistics.median(costs):5.1f} us of CPU per chunk "
                f"(min {min(costs):.1f}, max {max(costs):.1f}); engine "
                f"{statistics.median(engine_costs):.1f} us; "
                f"{statistics.median(rates):.0f} chunks/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
