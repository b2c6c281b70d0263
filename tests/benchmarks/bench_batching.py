"""What batching gains: the same streamed requests one after another, then all at once.

Starts a server of its own for each kind of kernels and prints tokens per second and the ratio:
    python tests/benchmarks/bench_batching.py --model models/minnow --clients 32
Several rounds, both sides in turn; the median counts. Sends to loopback only.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(rb"serves on http://127\.0\.0\.1:(\d+)")


def start_server(model: Path, kernels: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server process and its port, once its model is loaded."""
    command = [sys.executable, "-m", "shoal", "serve", "--port", "0"]
    command += ["--model", str(model), "--kernels", kernels, "--log-level", "warning"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    assert server.stdout is not None
    for line in server.stdout:
        if match := READY.search(line):
            return server, int(match[1])
    raise SystemExit(f"the server ended with code {server.wait()}")


async def count_tokens(port: int, body: bytes) -> int:
    """Sends one streamed request; returns the number of its chunks, one per token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await asyncio.wait_for(reader.read(-1), timeout=120)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(answer[:500].decode())
    return answer.count(b'"choices":[{')


def bodies(num_clients: int, num_tokens: int, round_number: int) -> list[bytes]:
    """Requests with prompts that differ from their first word on."""
    return [
        json.dumps(
            {
                "prompt": f"{client} {round_number} little fish swam to the big red boat and",
                "max_tokens": num_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "cache_prompt": False,
            }
        ).encode()
        for client in range(num_clients)
    ]


async def measure(port: int, requests: list[bytes]) -> tuple[float, float]:
    """Tokens per second one after another, and all at once."""
    started = time.perf_counter()
    alone = [await count_tokens(port, body) for body in requests]
    turned = time.perf_counter()
    together = await asyncio.gather(*(count_tokens(port, body) for body in requests))
    ended = time.perf_counter()
    if alone != together:
        raise SystemExit("the two sides produced different numbers of tokens")
    return sum(alone) / (turned - started), sum(together) / (ended - turned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "minnow")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kernels", nargs="+", default=["torch", "native"])
    options = parser.parse_args()
    for kernels in options.kernels:
        server, port = start_server(options.model, kernels)
        try:
            asyncio.run(measure(port, bodies(2, 16, -1)))  # warm-up
            rounds = [
                asyncio.run(measure(port, bodies(options.clients, options.tokens, number)))
                for number in range(options.rounds)
            ]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
        ratios = [together / alone for alone, together in rounds]
        alone, together = (statistics.median(side) for side in zip(*rounds, strict=True))
        print(
            f"{kernels}: {alone:.0f} tokens/s one after another, {together:.0f} with "
            f"{options.clients} clients, ratio median {statistics.median(ratios):.1f} "
            f"(min {min(ratios):.1f}, max {max(ratios):.1f})"
        )


if __name__ == "__main__":
    main()
