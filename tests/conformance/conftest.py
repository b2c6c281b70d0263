"""One server for all conformance tests; after each test nothing runs in any server."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # Twelve layers: an answer of 4,000 tokens outlasts many looks at /load, even on a fast machine.
    folder = write_tiny_llama(tmp_path_factory.mktemp("conformance") / "tiny", num_layers=12)
    flags = ("--max-queue", "8", "--max-batch-size", "32", "--dtype", "float32")
    with serve_process(folder, *flags) as served:
        yield served


@pytest.fixture(autouse=True)
def _nothing_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for server in request.node.funcargs.values():
        if isinstance(server, ServerProcess) and server.process.poll() is None:
            wait_until_nothing_runs(server)


def wait_until_nothing_runs(server: ServerProcess, limit_s: float = 10.0) -> None:
    """Rows, waiting requests and KV blocks are given back."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=10)
    end = time.monotonic() + limit_s
    while left := _what_runs(connection):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.02)
    connection.close()


def _what_runs(connection: HTTPConnection) -> dict[str, object]:
    connection.request("GET", "/load", headers={"Authorization": "Bearer secret"})
    models = json.loads(connection.getresponse().read()).get("models", {})
    return {
        name: model
        for name, model in models.items()
        if any(model.get(key) for key in ("running", "waiting"))
    }
