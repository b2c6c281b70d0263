"""State of one HTTP request, stored in its ASGI scope."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope, Send

from shoal.server.keys import ANYONE, Key

_KEY = "shoal.context"


@dataclass(slots=True)
class RequestContext:
    """Filled by the middleware first, then by the route."""

    request_id: str
    send: Send
    """The server's own send function. Chunks after the response start use it to bypass the
    middleware, which does not change them."""
    tenant: str = ""
    key: Key = ANYONE
    received: float = field(default_factory=time.monotonic)
    model: str = ""
    num_body_bytes: int = 0
    log_fields: dict[str, Any] = field(default_factory=dict)
    """Fields for the access log: token counts, times, outcome."""

    def attach(self, scope: Scope) -> None:
        scope[_KEY] = self


def context_of(scope: Scope) -> RequestContext:
    """The context that ContextMiddleware attached."""
    context: RequestContext = scope[_KEY]
    return context
