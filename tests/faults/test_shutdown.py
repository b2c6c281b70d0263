"""A real server is told to end: what clients and load balancers see of it."""

import signal
import socket
import time
from pathlib import Path

import httpx

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.faults.measured import Measured
from tests.faults.wire_server import post

STREAM = {"prompt": "x", "stream": True, "ignore_eos": True, "max_tokens": 4000, "temperature": 0}


def raw_answer(server: ServerProcess, request: bytes) -> bytes:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request)
        answer = b""
        while b"}}" not in answer and (piece := client.recv(1 << 16)):
            answer += piece
        return answer


def test_sigterm_says_so_first_and_a_second_one_ends_with_error_events(
    tmp_path: Path, measured: Measured
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", num_layers=60)  # slow enough to be in the middle
    flags = ["--dtype", "float32", "--shutdown-delay", "60", "--probe-port", "0"]
    with (
        serve_process(folder, *flags) as server,
        httpx.Client(timeout=20) as client,
        httpx.Client(timeout=20) as probe,
    ):
        for each in (client, probe):  # makes the connections
            assert each.get(server.url + "/readyz").status_code == 200
        with client.stream("POST", server.url + "/v1/completions", json=STREAM) as response:
            lines = (line for line in response.iter_lines() if line)
            assert next(lines).startswith("data: {")
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            while probe.get(server.url + "/readyz").status_code == 200:  # the signal is on its way
                assert time.monotonic() - began < 3
            took_s = time.monotonic() - began
            measured(
                "SIGTERM: /readyz says 503",
                promised="≤ 100 ms",
                measured=f"{took_s * 1000:.0f} ms",
            )
            assert took_s < 1
            refusal = probe.post(server.url + "/v1/completions", json={"prompt": "x"})
            assert refusal.status_code == 503
            assert refusal.json()["error"]["code"] == "shutting_down"
            assert refusal.headers["retry-after"]
            assert refusal.headers["connection"] == "close"
            assert probe.get(server.url + "/livez").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            rest = list(lines)
        assert '"shutting_down"' in rest[-2]
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(10) == 0
        took_s = time.monotonic() - began
        measured("a second signal", promised="ends ≤ 2 s", measured=f"{took_s:.2f} s")
        assert took_s < 6


def test_an_idle_server_stays_open_for_the_delay_and_ends_with_code_0(
    tmp_path: Path, measured: Measured
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    with serve_process(folder, "--shutdown-delay", "1") as server:
        assert server.get("/readyz").status_code == 200
        # Refusals of the wire, here on uvloop.
        for request, status in (
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nA: " + b"b" * 41_000, 431),
            (post(b"", "Content-Length: 30000000", close=False), 413),
            (post(b"{}", "Connection: Upgrade", "Upgrade: h2c"), 400),
        ):
            answer = raw_answer(server, request)
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
            assert b'{"error":{' in answer
        assert server.metric("shoal_connections_open") > 0
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        statuses = []
        try:
            while True:
                statuses.append(server.get("/v1/models").status_code)
                open_s = time.monotonic() - began
                time.sleep(0.05)
        except httpx.TransportError:
            pass
        assert server.process.wait(10) == 0
        gone_s = time.monotonic() - began
    measured(
        "SIGTERM while idle (delay 1 s in the test)",
        promised="listener open 1 s more, exit ≤ 2 s after",
        measured=f"open {open_s:.2f} s, gone {gone_s:.2f} s",
    )
    assert statuses
    assert 1 <= gone_s < 1 + 2 * 3
