"""Phi-2 at its full size (2.7 B numbers, random weights) in int4: does it start and serve within a
memory limit, and how fast?

    python -m tests.benchmarks.bench_phi2 --delete

writes the folder once (5.6 GB under .cache/; --delete removes it at the end), starts
`shoal serve FOLDER --quantize int4`, streams from 1, 4 and 8 clients. The memory of all processes
(proportional set size: the mapped weights count while they are mapped) is read five times a second
from the start on; a server that goes beyond the limit is ended and the run fails. Run it when the
machine does nothing else.
"""

import argparse
import asyncio
import shutil
import threading
import time
from pathlib import Path
from typing import Self

import psutil
import uvloop

from shoal.commands.bench.load import Limits, Workload, run_level
from shoal.commands.bench.stats import LevelStats, level_stats

from .peers import ours
from .peers.process import Running, ServerFailed, first_token, running
from .phi2_folder import write_phi2
from .serving import ROOT

NAME = "phi2"
FOLDER = ROOT / ".cache" / NAME
SAMPLE_S = 0.2
POLL_S = 0.1
MIB = 1 << 20


class MemoryWatch:
    """Reads the memory of a server's processes while it runs; ends it beyond the limit."""

    def __init__(self, server: Running, limit_mib: float) -> None:
        self._server = server
        self._limit = limit_mib
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mib = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def is_broken(self) -> bool:
        return self.peak_mib > self._limit

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_S):
            try:
                self.peak_mib = max(self.peak_mib, self._server.memory_mib())
            except psutil.NoSuchProcess:  # one that began or ended meanwhile
                continue
            if self.is_broken:
                self._server.process.kill()
                return


def _ready_s(server: Running) -> float:
    """Seconds from the start until the server says that it serves. Raises ServerFailed."""
    while b"serves on" not in server.log.read_bytes():
        if server.process.poll() is not None:
            raise ServerFailed(f"it ended while loading:\n{server.end_of_log()}")
        time.sleep(POLL_S)
    return time.perf_counter() - server.started_at


async def _measure(server: Running, clients: list[int], tokens: int, words: int) -> None:
    work = Workload(server.address, NAME, max_tokens=tokens, prompt_words=words)
    print("clients  tokens/s  first token p50  between tokens p50")
    for count in clients:
        run = await run_level(work, count, Limits(num_requests=2 * count))
        run.sending_ended_at = run.ended_at  # rates over whole answers
        _print_level(level_stats(run))


def _print_level(stats: LevelStats) -> None:
    if stats.num_failed or stats.ttft_ms is None or stats.inter_token_ms is None:
        raise ServerFailed(f"requests failed: {stats.errors}")
    print(
        f"{stats.concurrency:7}  {stats.output_tokens_per_s:8.2f}  {stats.ttft_ms.p50:12.0f} ms  "
        f"{stats.inter_token_ms.p50:15.0f} ms",
        flush=True,
    )


def _serve_and_measure(options: argparse.Namespace) -> None:
    command = ours.command(FOLDER, NAME, "--quantize", "int4")
    limit_mib = options.limit_gb * 1e9 / MIB
    with running(command) as server, MemoryWatch(server, limit_mib) as memory:
        try:
            print(f"ready {_ready_s(server):.1f} s after the start")
            work = Workload(server.address, NAME, prompt_words=1)
            started_s = asyncio.run(first_token(server, work))
            print(f"first token {started_s:.1f} s after the start; peak {memory.peak_mib:.0f} MiB")
            print(f"memory then: {server.memory_mib():.0f} MiB", flush=True)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_measure(server, options.clients, options.tokens, options.words))
        except ServerFailed as error:
            if not memory.is_broken:
                raise
            raise SystemExit(f"over the limit: {memory.peak_mib:.0f} MiB") from error
        print(f"peak memory {memory.peak_mib:.0f} MiB, limit {limit_mib:.0f} MiB")
        assert not memory.is_broken, "the limit was broken in the last moment"


def main() -> None:
    """Write, serve, measure, and delete if wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--words", type=int, default=64, help="of a prompt")
    parser.add_argument("--limit-gb", type=float, default=4.0)
    parser.add_argument("--delete", action="store_true", help="the folder, at the end")
    options = parser.parse_args()
    try:
        if not (FOLDER / "config.json").is_file():
            begun = time.perf_counter()
            vocabulary = options.data / "tokenizers" / "gpt2-50k"
            write_phi2(FOLDER, vocabulary if vocabulary.is_dir() else None)
            print(f"written in {time.perf_counter() - begun:.0f} s: {FOLDER}", flush=True)
        _serve_and_measure(options)
    finally:
        if options.delete:
            shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
