"""An official OpenAI client with the settings of one of ours, if that package is installed."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypedDict

from ._http import library_of
from ._settings import Settings

if TYPE_CHECKING:
    import openai


class _Common(TypedDict):
    base_url: str
    api_key: str
    max_retries: int
    default_headers: dict[str, str]
    timeout: openai.Timeout


def make_openai(settings: Settings, *, uds: str | None, http_client: Any) -> openai.OpenAI:
    """`http_client` is the one the user brought, or None. Raises ImportError, TypeError."""
    package = _package()
    wrapper = package.DefaultHttpxClient
    if http_client is not None:
        _check_same_library(http_client, library_of(wrapper(), "Client"), "Client")
    elif uds is not None:
        transport = library_of(wrapper(), "Client").HTTPTransport(uds=uds)
        http_client = wrapper(transport=transport)
    return package.OpenAI(**_common(settings), http_client=http_client)
