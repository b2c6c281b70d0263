"""Does memory grow with the number of requests? A mixed load with cancels on a real server:
`python -m tests.faults.leak --minutes 20`."""

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from tests.conformance.served import ServerProcess, descendants, serve_process, write_tiny_llama

MIB = 1 << 20
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
WORDS = ("a", "the", "fish", "swims", "è")
PROMPTS = [" ".join(WORDS[(n + i) % 5] for i in range(1 + n % 60)) for n in range(300)]
"""Not more: the tokenizer library remembers 10,000 words of up to 256 characters, and in the tests'
vocabulary a whole prompt is one."""
BAD_BODIES: list[bytes] = [b"", b"{", b'{"prompt": 1e999}', b'{"prompt": "x", "n": -1}', b"[" * 50]


@dataclass(frozen=True)
class Load:
    """What is done to the server."""

    seconds: float
    clients: int = 12
    cancelled: float = 0.3
    """Part of the requests whose client goes before the end."""
    warm_up: float = 0.35
    """Part of the time that is not looked at: caches and pools fill."""

    @property
    def limit_mib(self) -> float:
        """Growth per 1,000 requests that passes; short runs see the end of warming up."""
        return 1.0 if self.seconds >= 600 else 4.0


@dataclass
class Seen:
    """What was measured."""

    limit_mib: float
    num_requests: int = 0
    num_cancelled: int = 0
    samples: list[tuple[int, float]] = field(default_factory=list)
    """(requests so far, resident MiB of the server and its processes), after the warm-up."""
    open_files: int = 0
    """More at the end than after the warm-up."""

    @property
    def mib_per_1000(self) -> float:
        """Slope of a straight line through the samples."""
        requests, memory = np.array(self.samples, float).T
        return float(np.polyfit(requests, memory, 1)[0] * 1000)


def run(load: Load, folder: Path) -> Seen:
    """Starts a server on a tiny model and loads it."""
    model = write_tiny_llama(folder / "tiny")
    # A KV cache that is full after the warm-up: its pages are the system's until they are used.
    flags = ("--dtype", "float32", "--kv-cache-bytes", str(16 * MIB))
    with serve_process(model, *flags) as server:
        return asyncio.run(_run(load, server))


async def _run(load: Load, server: ServerProcess) -> Seen:
    seen, end = Seen(load.limit_mib), time.monotonic() + load.seconds
    watch = asyncio.create_task(_watch(server, load, seen))
    await asyncio.gather(
        *(_client(server.url, load, seen, end, number) for number in range(load.clients))
    )
    watch.cancel()
    server.wait_idle(20)
    return seen


async def _client(url: str, load: Load, seen: Seen, end: float, number: int) -> None:
    """Asks one thing after another; one that it leaves takes its connection along."""
    rng, client = random.Random(number), _connect(url)
    while time.monotonic() < end:
        if rng.random() < load.cancelled:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.random() ** 2 * 0.1):
                    await _ask(client, rng)
            await client.aclose()
            client = _connect(url)
            seen.num_cancelled += 1
        else:
            await _ask(client, rng)
        seen.num_requests += 1
    await client.aclose()


def _connect(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, verify=False, timeout=30)


async def _ask(client: httpx.AsyncClient, rng: random.Random) -> None:
    kind = rng.random()
    words = rng.choice(PROMPTS)
    body: dict[str, Any] = {"max_tokens": rng.randrange(1, 40), "ignore_eos": True}
    if kind < 0.1:
        headers = {"content-type": "application/json"}
        await client.post("/v1/completions", content=rng.choice(BAD_BODIES), headers=headers)
        return
    if kind < 0.2:
        path = rng.choice(("/metrics", "/load", "/v1/models", "/livez"))
        await client.get(path)
        return
    if kind < 0.4:
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": words}]
    else:
        path, body["prompt"] = "/v1/completions", words
        body |= rng.choice(({}, {"n": 3}, {"logprobs": 5}, {"seed": 1}, {"echo": True}))
    if rng.random() < 0.1:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": SCHEMA},
        }
    if rng.random() < 0.5:
        async with client.stream("POST", path, json=body | {"stream": True}) as response:
            async for _ in response.aiter_bytes():
                pass
    else:
        await client.post(path, json=body)


async def _watch(server: ServerProcess, load: Load, seen: Seen) -> None:
    """A sample each second."""
    await asyncio.sleep(load.seconds * load.warm_up)
    files = _state(server)[1]
    while True:
        memory, now = _state(server)
        seen.samples.append((seen.num_requests, memory))
        seen.open_files = now - files
        await asyncio.sleep(1.0)


def _state(server: ServerProcess) -> tuple[float, int]:
    """(MiB, open files that are not connections) of the server and all below it."""
    processes = [psutil.Process(server.process.pid), *descendants(server.process.pid)]
    memory = sum(process.memory_info().rss for process in processes)
    files = 0
    for process in processes:
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                files += not link.readlink().name.startswith("socket:")
    return memory / MIB, files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=12)
    arguments = parser.parse_args()
    load = Load(arguments.minutes * 60, arguments.clients)
    with tempfile.TemporaryDirectory() as folder:
        seen = run(load, Path(folder))
    first, last = seen.samples[0], seen.samples[-1]
    print(f"{seen.num_requests:,} requests, {seen.num_cancelled:,} cancelled")
    print(f"{first[1]:.1f} MiB at {first[0]:,} requests, {last[1]:.1f} MiB at {last[0]:,}")
    print(f"{seen.mib_per_1000:.3f} MiB per 1,000 requests (limit {seen.limit_mib:g})")
    print(f"{seen.open_files:+d} open files")
    raise SystemExit(seen.mib_per_1000 >= seen.limit_mib or abs(seen.open_files) > 2)


if __name__ == "__main__":
    main()
