"""Server-sent events: `data:` lines and comments only, as in the OpenAI API."""

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


def event(json_bytes: bytes) -> bytes:
    """Encodes one event."""
    return b"data: " + json_bytes + b"\n\n"
