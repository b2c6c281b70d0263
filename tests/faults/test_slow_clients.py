"""Readers that are slow or stop: what they cost, and that they cost nobody else anything."""

import asyncio
import itertools
import json
import socket
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shoal.server.api.generation import response
from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.faults.measured import Measured
from tests.faults.wire_server import post, wire
from tests.http.building import nothing_left, serve_script, until

MIB = 1 << 20


async def test_the_kernel_holds_little_for_a_reader_and_notices_who_vanished(
    tmp_path: Path,
) -> None:
    async with wire(tmp_path) as server:
        _, writer = await server.connect()
        await until(lambda: len(server.connections))
        (connection,) = server.connections._open
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * (64 << 10)
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        writer.close()


@pytest.mark.parametrize("parser", ["httptools", "h11"])
async def test_a_plain_answer_that_nobody_takes_ends_and_is_never_held_as_a_whole(
    tmp_path: Path, parser: str
) -> None:
    fields = {"prompt": "x", "max_tokens": 300, "logprobs": 20, "n": 8}
    options: dict[str, Any] = {"script": "a" * 300, "stream_stall_timeout": 0.4}
    async with wire(tmp_path, parser, **options) as server:
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(reader, ("127.0.0.1", server.port))
        await loop.sock_sendall(reader, post(fields))
        await until(lambda: server.served.services.open_requests, 20)
        (connection,) = server.connections._open
        unsent = [0]
        while server.served.services.open_requests:
            unsent.append(connection._raw.get_write_buffer_size())
            await asyncio.sleep(0.01)
        assert 0 < max(unsent) <= 3 * response._PIECE_BYTES
        nothing_left(server.served)
        await until(lambda: not len(server.connections))
        assert set(server.ended) <= {"stalled"}
        reader.close()


async def test_an_answer_in_pieces_is_the_whole_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    completion = {"prompt": ["x", "y"], "n": 2, "logprobs": 5, "echo": True, "seed": 1}
    chat = {"messages": [{"role": "user", "content": "x"}], "n": 2, "logprobs": True, "seed": 1}
    asked = [("completions", completion), ("chat/completions", {**chat, "top_logprobs": 3})]
    async with serve_script(tmp_path, "abc" * 5) as (served, _):
        answers = []
        for limit in (response._WHOLE_CHARS, 0):
            monkeypatch.setattr(response, "_WHOLE_CHARS", limit)
            for route, fields in asked:
                answer = await served.client.post(f"/v1/{route}", json=fields)
                assert ("content-length" in answer.headers) == (limit > 0)
                got = answer.json()
                answers.append((list(got), got["choices"], got["usage"]["total_tokens"]))
    assert answers[:2] == answers[2:]


# --- real processes ------------------------------------------------------------------------------


def stalled_reader(server: ServerProcess, body: dict[str, Any]) -> socket.socket:
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    reader.sendall(post(body))
    return reader


def tcp_bytes() -> int:
    """What the kernel holds for all TCP sockets of this namespace."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * 4096
    return 0


def p99_gap_s(server: ServerProcess) -> float:
    """Between the chunks that a normal reader gets."""
    body = {"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 1500, "temperature": 0}
    times = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line:
                times.append(time.monotonic())
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return statistics.quantiles(gaps, n=100)[98]


@pytest.mark.faults
def test_fifty_stalled_readers(tmp_path: Path, measured: Measured) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", num_layers=8)
    stream = {"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 4000}
    flags = ["--dtype", "float32", "--stream-stall-timeout", "15", "--max-batch-size", "64"]
    with serve_process(folder, *flags) as server:
        process = psutil.Process(server.process.pid)
        # The same work with readers that read, for the neighbour to be compared with.
        ends = threading.Event()

        def read_on() -> None:
            body = {**stream, "max_tokens": 3000}
            with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=90) as got:
                for _ in got.iter_raw():
                    if ends.is_set():
                        return

        threads = [threading.Thread(target=read_on) for _ in range(50)]
        for thread in threads:
            thread.start()
        baseline_s = p99_gap_s(server)
        ends.set()
        for thread in threads:
            thread.join(60)
        server.wait_idle(20)
        resident, kernel = process.memory_info().rss, tcp_bytes()
        readers = [stalled_reader(server, stream) for _ in range(50)]
        gap_s = p99_gap_s(server)
        used = (process.memory_info().rss - resident) / MIB, (tcp_bytes() - kernel) / MIB
        server.wait_idle(60)  # the stall time-out has freed them
        for reader in readers:
            reader.close()
    measured(
        "50 stalled readers: memory",
        promised="≤ 20 MB, kernel included",
        measured=f"{used[0]:.1f} MiB resident + {used[1]:.1f} MiB of the kernel",
    )
    measured(
        "50 stalled readers: p99 gap of a normal one",
        promised="≤ 1.2 × of 50 that read",
        measured=f"{gap_s * 1000:.1f} ms, {gap_s / baseline_s:.2f} ×",
    )
    assert sum(used) * MIB < 20e6
    assert gap_s < 1.2 * 3 * baseline_s


@pytest.mark.faults
def test_a_plain_answer_of_a_quarter_million_tokens(tmp_path: Path, measured: Measured) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", num_layers=1)
    body = {
        "prompt": [f"{number}" for number in range(32)], "n": 16, "max_tokens": 500,
        "ignore_eos": True, "logprobs": 20,
    }  # fmt: skip
    peak, done = [0], threading.Event()
    flags = ["--max-queue", "600", "--dtype", "float32"]
    with serve_process(folder, *flags) as server:
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss

        def watch() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        num_bytes, tail = 0, b""
        url = f"{server.url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=200) as answer:
            assert answer.status_code == 200
            for piece in answer.iter_bytes():
                num_bytes += len(piece)
                tail = (tail + piece)[-400:]
        done.set()
        watcher.join()
    assert (
        json.loads(b"{" + tail[tail.index(b'"usage"') :])["usage"]["completion_tokens"] == 256_000
    )
    used = (peak[0] - before) / MIB
    measured(
        "a plain answer of 32 × 16 × 500 tokens, each with 20 log-probabilities",
        promised="HTTP process ≤ 200 MiB more",
        measured=f"{used:.0f} MiB more for {num_bytes / MIB:.0f} MiB of answer",
    )
    assert used < 200
