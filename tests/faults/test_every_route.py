"""Every route needs a key but the open ones, however its path is written and whatever the Host
says: walked over the route table, through a real HTTP parser."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.fakes.http_app import Served, serve
from tests.faults.measured import Measured

SETTINGS: dict[str, Any] = {"api_keys": ["ann:key-a"], "admin_keys": ["root:key-r"]}
OPEN_PATHS = {"/livez", "/readyz", "/health", "/health/live", "/health/ready"}
HOSTS = ("127.0.0.1", "evil.example/livez", "x@127.0.0.1", "[::1]", "livez", "127.0.0.1?/livez")


def route_table(routes: Iterable[Any], prefix: str = "") -> set[tuple[str, str]]:
    """(method, path) of every route, mounted and included ones too."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        path = prefix + getattr(route, "path", "")
        for method in getattr(route, "methods", None) or ():
            found.add((method, re.sub(r"\{[^}]*\}", "tiny", path)))
        inner = getattr(route, "routes", None)
        if inner is None and hasattr(route, "original_router"):
            inner = route.original_router.routes
        found |= route_table(inner or (), path if inner else prefix)
    return found


def is_page(method: str, path: str) -> bool:
    """The static files of the page hold nothing of this server."""
    return method in ("GET", "HEAD") and (path == "/" or path.startswith("/page/"))


def written(path: str) -> list[str]:
    """The same path, and what a careless check could take for another."""
    first = path.removeprefix("/")[:1]
    return [
        path,
        f"/{path}",
        f"//livez{path}",
        f"{path}/",
        f"http://127.0.0.1{path}",
        f"http://livez{path}",
        f"/@127.0.0.1{path}",
        f"/livez/..{path}",
        f"/livez%2f..{path}",
        f"/livez;{path}",
        f"/page/..{path}",
        f"/page/%2e%2e{path}",
        f"{path}?/livez",
        f"{path}#/livez",
        f"{path}%00",
        f"/%{ord(first or '/'):02x}{path[2:]}",
        path.upper(),
        path.title(),
    ]


@asynccontextmanager
async def listening(served: Served, http: Any) -> AsyncIterator[int]:
    """The app behind uvicorn; its port."""
    config = uvicorn.Config(
        served.app, port=0, http=http, lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


async def status_of(port: int, method: str, target: str, host: str, key: str = "") -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    authorization = f"x-api-key: {key}\r\n" if key else ""
    writer.write(
        f"{method} {target} HTTP/1.1\r\nhost: {host}\r\n{authorization}connection: close\r\n"
        "content-type: application/json\r\ncontent-length: 2\r\n\r\n{}".encode()
    )
    try:
        line = await reader.readline()
    finally:
        writer.close()
    return int(line.split()[1]) if line else 0


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_no_route_is_served_without_a_key(
    tmp_path: Path, measured: Measured, http: str
) -> None:
    async with serve(tmp_path, **SETTINGS) as served, listening(served, http) as port:
        table = route_table(served.app.routes)
        paths = {path for _, path in table}
        documented = {path.replace("{model_id}", "tiny") for path in served.app.openapi()["paths"]}
        missing = {re.sub(r"\{[^}]*\}", "tiny", path) for path in documented} - paths
        assert not missing, "the walk has to see every route"
        assert {"/v1/completions", "/admin/drain", "/metrics", "/openapi.json"} <= paths
        closed = [
            (method, path)
            for method, path in table
            if path not in OPEN_PATHS and not is_page(method, path)
        ]
        asked = [
            (method, target, HOSTS[number % len(HOSTS)])
            for number, (method, path) in enumerate(sorted(closed))
            for target in written(path)
        ]
        places = asyncio.Semaphore(32)

        async def ask(method: str, target: str, host: str) -> tuple[str, str, str, int]:
            async with places:
                return method, target, host, await status_of(port, method, target, host)

        answers = await asyncio.gather(*(ask(*each) for each in asked))
        refusals = {False: (401, 400), True: (401, 400, 404, 405)}  # below /page/ is no such file
        served_anyway = [each for each in answers if each[3] not in refusals["/page/" in each[1]]]
        plain = [each for each in answers if each[1] in paths and each[3] != 401]
        measured(
            f"requests without a key to every route, in {len(written('/'))} spellings ({http})",
            promised="0 served",
            measured=f"{len(served_anyway)} of {len(answers)} served",
        )
        assert not served_anyway
        assert not plain
        for path in sorted(OPEN_PATHS):
            assert await status_of(port, "GET", path, "evil.example") == 200
        assert await status_of(port, "GET", "/v1/models", "evil.example", "key-a") == 200
        assert await status_of(port, "GET", "/admin/models", "evil.example", "key-a") == 403
