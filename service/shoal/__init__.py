"""Shoal: small language models, moving together.

`import shoal` is cheap: the SDK (`Client`, `AsyncClient`, the errors) is imported when one of its
names is first used, so the server can import `shoal.*` without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.client import (
        AsyncClient,
        AuthenticationFailed,
        BadRequest,
        Client,
        ClientClosed,
        Conflict,
        ConnectionFailed,
        ContextLengthExceeded,
        Error,
        InvalidSchema,
        Loading,
        ModelNotFound,
        NotFound,
        Overloaded,
        ParseFailed,
        PermissionDenied,
        RateLimited,
        ResponseInvalid,
        ServerError,
        ShuttingDown,
        StatusError,
        StreamInterrupted,
        Timeout,
        Timeouts,
        TooLarge,
        ToolError,
        ToolRoundsExceeded,
        Unavailable,
        tool,
    )

    __version__: str

__all__ = [
    "AsyncClient",
    "AuthenticationFailed",
    "BadRequest",
    "Client",
    "ClientClosed",
    "Conflict",
    "ConnectionFailed",
    "ContextLengthExceeded",
    "Error",
    "InvalidSchema",
    "Loading",
    "ModelNotFound",
    "NotFound",
    "Overloaded",
    "ParseFailed",
    "PermissionDenied",
    "RateLimited",
    "ResponseInvalid",
    "ServerError",
    "ShuttingDown",
    "StatusError",
    "StreamInterrupted",
    "Timeout",
    "Timeouts",
    "TooLarge",
    "ToolError",
    "ToolRoundsExceeded",
    "Unavailable",
    "__version__",
    "tool",
]

_UNINSTALLED_VERSION = "0.1.0"  # a source checkout has no package metadata


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> object:
        if name == "__version__":
            value: object = _read_version()
        elif name in __all__:
            from shoal import client

            value = getattr(client, name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value  # later accesses do not call __getattr__
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _read_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("shoal", "shoal-sdk"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return _UNINSTALLED_VERSION
