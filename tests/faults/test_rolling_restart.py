"""Two servers behind a load balancer are restarted one after the other, under steady load from
clients that do not try again."""

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.faults.balancer import balancing
from tests.faults.measured import Measured

pytestmark = pytest.mark.faults
BODY = {"prompt": "x", "ignore_eos": True, "max_tokens": 20, "temperature": 0}
# It looks at no /readyz: what answers 503, or not at all, is passed over.
NGINX = """
worker_processes 1; daemon off; pid FOLDER/pid; error_log FOLDER/error.log;
events { worker_connections 1024; }
http {
  access_log off;
  upstream shoal { SERVERS keepalive 16; }
  server {
    listen 127.0.0.1:PORT;
    location / {
      proxy_pass http://shoal;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host 127.0.0.1;
      proxy_buffering off;
      proxy_next_upstream error timeout http_503 non_idempotent;
    }
  }
}
"""


class SteadyLoad:
    """Forty requests a second, every other one streamed, and at least a thousand in all."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.num_sent = 0
        self.failed: list[str] = []

    def _ask(self, number: int) -> None:
        body = {**BODY, "stream": number % 2 == 0}
        url = f"http://127.0.0.1:{self._port}/v1/completions"
        try:
            answer = httpx.post(url, json=body, timeout=20)
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        is_whole = not body["stream"] or answer.text.endswith("data: [DONE]\n\n")
        if answer.status_code != 200 or not is_whole or '"error"' in answer.text:
            self.failed.append(f"{answer.status_code} {answer.text[-300:]}")

    @contextmanager
    def running(self) -> Iterator[None]:
        over = threading.Event()

        def send() -> None:
            while not over.wait(0.025) or self.num_sent < 1000:
                clients.submit(self._ask, self.num_sent)
                self.num_sent += 1

        with ThreadPoolExecutor(16) as clients:
            sending = threading.Thread(target=send)
            sending.start()
            try:
                yield
            finally:
                over.set()
                sending.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def test_behind_a_balancer_that_asks_whether_they_are_ready(
    tmp_path: Path, measured: Measured
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")

    def serve(number: int) -> AbstractContextManager[ServerProcess]:
        logs = tmp_path / str(number)
        logs.mkdir()
        flags = ("--dtype", "float32", "--shutdown-delay", "2")
        return serve_process(folder, *flags, log_folder=logs)

    with ExitStack() as servers:
        running = [servers.enter_context(serve(number)) for number in range(2)]
        ports = [int(server.url.rpartition(":")[2]) for server in running]
        balancer = servers.enter_context(balancing(ports))
        load = SteadyLoad(balancer.port)
        with load.running():
            for number in (0, 1):
                while not set(ports) <= set(balancer.ready):  # as who restarts servers waits for it
                    time.sleep(0.1)
                time.sleep(1)
                running[number].process.send_signal(signal.SIGTERM)
                new = servers.enter_context(serve(number + 2))
                ports.append(int(new.url.rpartition(":")[2]))
                assert running[number].process.wait(20) == 0
                ports.pop(0)
    measured(
        "rolling restart of 2 servers behind a balancer",
        promised="0 of 1,000 requests fail without retries",
        measured=f"{len(load.failed)} of {load.num_sent} ({balancer.num_passed_on} passed on)",
    )
    assert not load.failed, load.failed[:3]


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_behind_nginx(tmp_path: Path, measured: Measured) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    port, *ports = (free_port() for _ in range(3))
    upstreams = " ".join(f"server 127.0.0.1:{each} fail_timeout=1s;" for each in ports)
    config = NGINX.replace("FOLDER", str(tmp_path)).replace("SERVERS", upstreams)
    (tmp_path / "nginx.conf").write_text(config.replace("PORT", str(port)))

    def serve(number: int) -> AbstractContextManager[ServerProcess]:
        logs = tmp_path / str(number)
        logs.mkdir()
        flags = ("--dtype", "float32", "--port", str(ports[number % 2]))
        return serve_process(folder, *flags, log_folder=logs)

    with ExitStack() as servers:
        running = [servers.enter_context(serve(number)) for number in range(2)]
        nginx = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf")])
        servers.callback(nginx.wait, 20)
        servers.callback(nginx.terminate)
        load = SteadyLoad(port)
        time.sleep(1)
        with load.running():
            for number in (0, 1):
                time.sleep(2)
                running[number].process.send_signal(signal.SIGTERM)
                assert running[number].process.wait(20) == 0
                servers.enter_context(serve(number + 2))
    measured(
        "rolling restart of 2 servers behind nginx",
        promised="0 of 1,000 requests fail without retries",
        measured=f"{len(load.failed)} of {load.num_sent}",
    )
    assert not load.failed, load.failed[:3]
