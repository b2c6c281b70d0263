"""GET / for browsers and GET /page/VERSION/NAME: the files of the page, from memory.

VERSION is a hash of all files, so that a browser may keep each of them for ever. Programs, which do
not ask for HTML, get from `/` what they got without the page.
"""

import gzip
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope

from shoal.server.auth import PAGE_PREFIX

STATIC = Path(__file__).with_name("static")
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By suffix; other files of the folder are not served."""
SECURITY_HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_VERSION_IN_HTML = b"/page/VERSION/"
_DOCS_LINK = b'<a class="nav-docs" href="/docs">API</a>'
_FOR_EVER = "public, max-age=31536000, immutable"


Endpoint = Callable[[Request], Awaitable[Response]]


class StaticFile(NamedTuple):
    """One file as it is sent."""

    body: bytes
    zipped: bytes
    """The same, gzip."""
    media_type: str
    etag: str


def page_routes(*, docs: bool) -> list[BaseRoute]:
    """The routes of the page; they have to stand before those of the APIs. `docs`: /docs exists."""
    sources = read_sources()
    version = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:12]
    html = sources.pop("index.html").replace(_VERSION_IN_HTML, f"{PAGE_PREFIX}{version}/".encode())
    if not docs:
        html = html.replace(_DOCS_LINK, b"")
    page = _static_file("index.html", html)
    files = {name: _static_file(name, body) for name, body in sources.items()}
    return [
        _PageRoute("/", partial(_send_page, page)),
        _FileRoute(PAGE_PREFIX + "{version}/{name}", _sender(version, files)),
    ]


def read_sources() -> dict[str, bytes]:
    """The files of the page by name."""
    paths = (path for path in sorted(STATIC.iterdir()) if path.suffix in MEDIA_TYPES)
    return {path.name: path.read_bytes() for path in paths}


class _FileRoute(Route):
    """A route that log lines and metrics know by its path."""

    def __init__(self, path: str, endpoint: Endpoint) -> None:
        super().__init__(path, endpoint, include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self}


class _PageRoute(_FileRoute):
    """The same, for browsers only."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        accept = dict(scope["headers"]).get(b"accept", b"") if scope["type"] == "http" else b""
        if b"text/html" in accept and scope["method"] in ("GET", "HEAD"):
            return super().matches(scope)
        return Match.NONE, {}


def _static_file(name: str, body: bytes) -> StaticFile:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    zipped = gzip.compress(body, mtime=0)
    return StaticFile(body, zipped, MEDIA_TYPES[Path(name).suffix], etag)


async def _send_page(page: StaticFile, request: Request) -> Response:
    return _response(request, page, cache="no-cache", vary="Accept, Accept-Encoding")


def _sender(version: str, files: dict[str, StaticFile]) -> Endpoint:
    async def send(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        if file is None or request.path_params["version"] != version:
            return Response("no such file", 404, SECURITY_HEADERS, "text/plain")
        return _response(request, file, cache=_FOR_EVER, vary="Accept-Encoding")

    return send


def _response(request: Request, file: StaticFile, *, cache: str, vary: str) -> Response:
    headers = {**SECURITY_HEADERS, "cache-control": cache, "vary": vary, "etag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        body = file.zipped
    return Response(body, headers=headers, media_type=file.media_type)
