"""Open files are bounded by what the process may have, and some are kept for itself."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from shoal.server.app import create_probe_app
from shoal.server.wire.listener import find_places
from tests.conformance.served import serve_process, write_tiny_llama
from tests.fakes.http_app import serve
from tests.faults.measured import Measured
from tests.http.building import refused

_PLACES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from shoal.server.wire.listener import find_places
places = find_places(1024)
print(places.max_open, places.backlog, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("soft", "hard"), [(64, 200), (200, 200), (256, 4096), (1024, 4096)])
def test_connections_fit_into_the_limit_of_open_files(soft: int, hard: int) -> None:
    command = [sys.executable, "-c", _PLACES, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    max_open, backlog, limit = map(int, done.stdout.split())
    assert limit == hard if hard < 4096 else limit > 3000  # raised
    assert max_open + backlog + 16 + 64 + 3 <= limit
    assert max_open == 1024 if hard == 4096 else 0 < max_open < 200


def test_few_connections_are_not_more_than_asked_for() -> None:
    assert find_places(5).max_open == 5


async def test_the_probe_port_has_health_and_metrics_only(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=["secret"]) as served:
        transport = httpx.ASGITransport(create_probe_app(served.services))
        async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
            for path in ("/livez", "/readyz", "/health", "/health/live", "/health/ready"):
                assert (await client.get(path)).status_code == 200
            assert (await client.get("/metrics")).status_code == 401
            key = {"authorization": "Bearer secret"}
            assert (await client.get("/metrics", headers=key)).status_code == 200
            for path in ("/v1/models", "/docs", "/openapi.json", "/load", "/version"):
                refusal = await client.get(path, headers=key)
                refused(refusal, 404, "unknown_url")


@pytest.mark.faults
@pytest.mark.parametrize(("num_silent", "files"), [(1000, 0), (260, 200)])
def test_silent_sockets_cost_neither_probes_nor_the_engine(
    tmp_path: Path, num_silent: int, files: int, measured: Measured
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    with socket.create_server(("127.0.0.1", 0)) as free:
        probe_port = free.getsockname()[1]
    limited = ("prlimit", f"--nofile={files}") if files else ()
    with serve_process(folder, "--probe-port", str(probe_port), under=limited) as server:
        port = int(server.url.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(num_silent)]
        slowest = 0.0
        for base in (server.url, f"http://127.0.0.1:{probe_port}"):
            for path in ("/livez", "/readyz", "/metrics"):
                with httpx.Client(timeout=10) as client:
                    began = time.monotonic()
                    assert client.get(base + path).status_code == 200
                    slowest = max(slowest, time.monotonic() - began)
        measured(
            f"probes beside {num_silent} silent sockets, {files or 'no'} limit of files",
            promised="≤ 100 ms",
            measured=f"{slowest * 1000:.0f} ms",
        )
        os.kill(server.engine_pid, signal.SIGKILL)
        end = time.monotonic() + 15
        time.sleep(0.5)
        while server.get("/readyz").status_code != 200:
            assert time.monotonic() < end, "the engine does not come back"
            time.sleep(0.1)
        for each in silent:
            each.close()
        assert server.process.poll() is None
    assert slowest < 0.3
