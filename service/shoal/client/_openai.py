"""An official OpenAI client with the settings of one of ours, if that package is installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Literal

from ._http import library_of
from ._settings import Settings

if TYPE_CHECKING:
    import openai


def make_openai(settings: Settings, *, uds: str | None, brought: Any) -> openai.OpenAI:
    """`brought` is the HTTP client the user gave us, or None. Raises ImportError, TypeError."""
    package = _package()
    http_client = _http_client(
        brought, uds, package.DefaultHttpxClient, "Client", transport="HTTPTransport"
    )
    client: openai.OpenAI = package.OpenAI(**_arguments(package, settings, http_client))
    return client


def make_async_openai(settings: Settings, *, uds: str | None, brought: Any) -> openai.AsyncOpenAI:
    """The same, asynchronous."""
    package = _package()
    http_client = _http_client(
        brought, uds, package.DefaultAsyncHttpxClient, "AsyncClient", transport="AsyncHTTPTransport"
    )
    client: openai.AsyncOpenAI = package.AsyncOpenAI(**_arguments(package, settings, http_client))
    return client


def _package() -> Any:  # its types are only known where it is installed
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ImportError("openai_client() needs the openai package: pip install openai") from error


def _arguments(package: Any, settings: Settings, http_client: Any) -> dict[str, Any]:
    limits = settings.timeouts
    headers = settings.default_headers.items()
    return {
        "base_url": f"{settings.base_url}/v1",
        "api_key": settings.api_key or "no-key",  # it refuses to be made without one
        "max_retries": settings.max_retries,
        "timeout": package.Timeout(limits.total_s, connect=limits.connect_s),
        "default_headers": {name: value for name, value in headers if value is not None},
        "http_client": http_client,
    }


def _http_client(
    brought: Any,
    uds: str | None,
    wrapper: Any,
    kind: Literal["Client", "AsyncClient"],
    *,
    transport: str,
) -> Any:
    library = library_of(wrapper, kind)
    if brought is None:
        return None if uds is None else wrapper(transport=getattr(library, transport)(uds=uds))
    if library_of(type(brought), kind) is not library:
        raise TypeError(
            f"the installed openai package works with {library.__name__}, "
            f"and http_client is not a {library.__name__}.{kind}"
        )
    return brought
