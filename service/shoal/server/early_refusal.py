"""Refuses requests for a full model before they are routed and validated.

Beyond capacity most requests are refused, and what a refusal costs is taken from those that are
served: so once a model has refused one, those that follow are looked at here first. Whatever is
not plainly a request that admission would refuse goes on to its route.
"""

import time
from types import SimpleNamespace
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shoal.errors import ShoalError
from shoal.server.context import RequestContext, context_of
from shoal.server.middleware import send_error
from shoal.server.services import Services, Use

_ROUTES = {
    path: SimpleNamespace(path=path)  # what the access log and the metrics read of a route
    for path in (
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/api/generate",
        "/api/chat",
    )
}
_MAX_BODY_BYTES = 16 << 10
"""A much longer body goes to its route, which also refuses before it tokenizes."""
_WATCH_S = 1.0
"""So long after a refusal requests are looked at."""


class EarlyRefusal:
    """ASGI middleware behind the key check."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        self._admission = services.admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_watching = time.monotonic() - self._admission.refused_s < _WATCH_S
        if not is_watching or scope["path"] not in _ROUTES or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        messages = await _read(receive)
        context = context_of(scope)
        use: Use = "embedding" if scope["path"] == "/v1/embeddings" else "text"
        if (error := self._refusal(messages, context, use)) is not None:
            scope["route"] = _ROUTES[scope["path"]]
            self._services.metrics.rejected.labels(context.model, str(error.code)).inc()
            await send_error(scope, send, error)
            return
        await self._app(scope, _again(messages, receive), send)

    def _refusal(
        self, messages: list[Message], context: RequestContext, use: Use
    ) -> ShoalError | None:
        """What admission says of a request whose body has come. None where it would admit it, and
        where anything else is wrong with it."""
        if messages[-1]["type"] != "http.request" or messages[-1].get("more_body"):
            return None
        body = b"".join(message.get("body", b"") for message in messages)
        services, key = self._services, context.key
        if services.draining or services.drained or key.role == "gateway":
            return None  # refused for another reason; its tenant may stand in the body
        try:
            fields: Any = orjson.loads(body)
            name = fields.get("model") if isinstance(fields, dict) else None
            model = services.find_model(name, key, use)
            loaded = services.find_loaded(model.name)
        except (orjson.JSONDecodeError, ShoalError, TypeError, AttributeError):
            return None
        error = self._admission.refusal(loaded.name, context.tenant, key)
        if error is not None:
            context.model = model.name
        return error


async def _read(receive: Receive) -> list[Message]:
    """The messages of a body that is not long; of a longer one the first."""
    messages = [await receive()]
    num_bytes = len(messages[0].get("body", b""))
    while messages[-1].get("more_body") and num_bytes <= _MAX_BODY_BYTES:
        messages.append(await receive())
        num_bytes += len(messages[-1].get("body", b""))
    return messages


def _again(messages: list[Message], receive: Receive) -> Receive:
    """Gives these messages once more, then those that follow."""
    left = messages[::-1]

    async def receive_again() -> Message:
        return left.pop() if left else await receive()

    return receive_again
