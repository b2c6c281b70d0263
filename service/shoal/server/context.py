"""What is known of one HTTP request while it lives; kept in its ASGI scope."""

import time
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope, Send

_KEY = "shoal.context"


@dataclass(slots=True)
class RequestContext:
    """Filled from the outside in: middleware first, then the route."""

    request_id: str
    send: Send
    """The server's own. Chunks of a begun response take this way past the layers, which have
    nothing to add to them."""
    tenant: str = ""
    received: float = field(default_factory=time.monotonic)
    model: str = ""
    log_fields: dict[str, Any] = field(default_factory=dict)
    """Numbers for the access log: tokens, times, how it ended."""

    def attach(self, scope: Scope) -> None:
        scope[_KEY] = self


def context_of(scope: Scope) -> RequestContext:
    """The context middleware put there."""
    context: RequestContext = scope[_KEY]
    return context
