"""The limits of one connection, and what is refused by them."""

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.config import Settings
from shoal.errors import InvalidRequest

MAX_FRAMING_BYTES = 64 << 10
"""Most bytes of a body that are not its content (sizes of chunks, trailers), beside an eighth of
the content: it bounds how many chunks there are, and how small."""

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Sizes in bytes, times in seconds."""

    url: int = 8 << 10
    headers: int = 32 << 10
    num_headers: int = 100
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    stall_timeout: float = 60.0

    @classmethod
    def of(cls, settings: Settings) -> "WireLimits":
        return cls(
            settings.max_url_bytes,
            settings.max_header_bytes,
            settings.max_headers,
            settings.header_timeout,
            settings.body_timeout,
            settings.stream_stall_timeout,
        )

    @property
    def head(self) -> int:
        """Most bytes up to the end of the headers."""
        return self.url + self.headers

    def check_head(
        self, target: bytes, version: str, headers: Sequence[Header], num_bytes: int
    ) -> int | None:
        """The declared length of the body, if there is one. `num_bytes`: an upper bound on the size
        of the head. Raises InvalidRequest."""
        if num_bytes > self.url and len(target) > self.url:
            raise self.url_too_long()
        if len(headers) > self.num_headers or (
            num_bytes > self.headers and _size(headers) > self.headers
        ):
            raise self.headers_too_large()
        if version not in ("1.1", "1.0"):
            raise refusal(505, f"HTTP/{version[:8]} is not spoken here", "http_version")
        return _check_framing(version, headers)

    def url_too_long(self) -> InvalidRequest:
        return refusal(414, f"the URL is longer than {self.url} bytes", "url_too_long")

    def headers_too_large(self) -> InvalidRequest:
        return refusal(
            431,
            f"the headers are more than {self.num_headers} or larger than {self.headers} bytes",
            "headers_too_large",
        )


def refusal(status: int, message: str, code: str) -> InvalidRequest:
    """An error that the wire answers with."""
    error = InvalidRequest(message, code=code)
    error.status = status
    return error


def malformed(why: str = "the request is not valid HTTP") -> InvalidRequest:
    return refusal(400, why, "invalid_http")


def _size(headers: Sequence[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _check_framing(version: str, headers: Sequence[Header]) -> int | None:
    """The declared length of the body. Refuses what two servers could read differently (smuggling):
    parsers let some of it pass."""
    names = [name for name, _ in headers]
    lengths, codings = names.count(b"content-length"), names.count(b"transfer-encoding")
    if lengths > 1 or names.count(b"host") > 1:
        raise malformed("Content-Length or Host is given twice")
    if codings:
        if lengths or codings > 1 or version == "1.0":
            raise malformed("Transfer-Encoding stands beside a length, twice or in HTTP/1.0")
        if headers[names.index(b"transfer-encoding")][1].strip().lower() != b"chunked":
            raise malformed("Transfer-Encoding can be nothing but chunked")
    if not lengths:
        return None
    value = headers[names.index(b"content-length")][1]
    return int(value[:20]) if value.isdigit() else None
