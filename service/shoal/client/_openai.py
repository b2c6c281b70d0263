"""An official OpenAI client with the settings of one of ours, if that package is installed."""

from __future__ import annotations

import importlib
from typing import Any

from ._http import ClientKind, library_of
from ._settings import Settings


def make_openai(kind: ClientKind, settings: Settings, http_client: Any, uds: str | None) -> Any:
    """An `openai.OpenAI`, or an `openai.AsyncOpenAI` if `kind` is "AsyncClient".

    `http_client` is the one the user provided, or None. Raises ImportError, TypeError.
    """
    try:
        package = importlib.import_module("openai")
    except ImportError as error:
        raise ImportError("openai_client() needs the openai package: pip install openai") from error
    wrapper = getattr(package, f"Default{kind.replace('Client', 'HttpxClient')}")
    library = library_of(wrapper, kind)
    if http_client is not None and library_of(type(http_client), kind) is not library:
        raise TypeError(
            f"the installed openai package works with {library.__name__}, "
            f"and http_client is not a {library.__name__}.{kind}"
        )
    if http_client is None and uds is not None:
        transport_type = getattr(library, kind.replace("Client", "HTTPTransport"))
        http_client = wrapper(transport=transport_type(uds=uds))
    limits, headers = settings.timeouts, settings.default_headers.items()
    return getattr(package, kind.replace("Client", "OpenAI"))(
        base_url=f"{settings.base_url}/v1",
        api_key=settings.api_key or "no-key",  # the package insists on one
        max_retries=settings.max_retries,
        timeout=package.Timeout(limits.total_s, connect=limits.connect_s),
        default_headers={name: value for name, value in headers if value is not None},
        http_client=http_client,
    )
