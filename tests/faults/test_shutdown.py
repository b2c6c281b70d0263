"""A real server is told to end: what clients and load balancers see of it."""

import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.faults.balancer import balancing
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


@pytest.mark.faults
def test_a_rolling_restart_costs_no_request(tmp_path: Path, measured: Measured) -> None:
    """Two servers behind a load balancer are restarted one after the other, under steady load from
    clients that do not try again."""
    folder = write_tiny_llama(tmp_path / "tiny")
    flags = ("--dtype", "float32", "--shutdown-delay", "2")
    failed: list[str] = []
    num_sent = 0
    over = threading.Event()

    def serve(number: int) -> AbstractContextManager[ServerProcess]:
        logs = tmp_path / str(number)
        logs.mkdir()
        return serve_process(folder, *flags, log_folder=logs)

    def ask(port: int, number: int) -> None:
        body = {**STREAM, "stream": number % 2 == 0, "max_tokens": 20}
        try:
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=20)
            is_whole = not body["stream"] or answer.text.endswith("data: [DONE]\n\n")
            if answer.status_code != 200 or not is_whole or '"error"' in answer.text:
                failed.append(f"{answer.status_code} {answer.text[-300:]}")
        except httpx.HTTPError as error:
            failed.append(repr(error))

    with ExitStack() as servers, ThreadPoolExecutor(16) as clients:
        running = [servers.enter_context(serve(number)) for number in range(2)]
        ports = [int(server.url.rpartition(":")[2]) for server in running]
        balancer = servers.enter_context(balancing(ports))

        def load() -> None:
            nonlocal num_sent
            while not over.wait(0.025) or num_sent < 1000:
                clients.submit(ask, balancer.port, num_sent)
                num_sent += 1

        loading = threading.Thread(target=load)
        loading.start()
        for number in (0, 1):
            while not set(ports) <= set(balancer.ready):  # as who restarts servers waits for it
                time.sleep(0.1)
            time.sleep(1)
            running[number].process.send_signal(signal.SIGTERM)
            new = servers.enter_context(serve(number + 2))
            ports.append(int(new.url.rpartition(":")[2]))
            assert running[number].process.wait(20) == 0
            ports.pop(0)
        over.set()
        loading.join()
        clients.shutdown()
    measured(
        "rolling restart of 2 servers behind a balancer",
        promised="0 of 1,000 requests fail without retries",
        measured=f"{len(failed)} of {num_sent} ({balancer.num_passed_on} passed on)",
    )
    assert not failed, failed[:3]
