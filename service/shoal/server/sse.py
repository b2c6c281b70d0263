"""Server-sent events: `data:` lines and comments only, as in the OpenAI API; others have names."""

from shoal.errors import ShoalError
from shoal.server.errors import error_bytes

Headers = tuple[tuple[bytes, bytes], ...]

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS: Headers = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


def event(json_bytes: bytes) -> bytes:
    """Encodes one event."""
    return b"data: " + json_bytes + b"\n\n"


def named_event(name: str, json_bytes: bytes) -> bytes:
    """Encodes one event that says what it is."""
    return b"event: " + name.encode() + b"\ndata: " + json_bytes + b"\n\n"


class OpenAIStream:
    """The framing of a stream of the OpenAI API, for renderers."""

    stream_headers: Headers = HEADERS
    ping = PING

    def failed(self, error: ShoalError) -> bytes:
        """The error as an event, then the end."""
        return event(error_bytes(error)) + DONE
