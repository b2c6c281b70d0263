"""An official OpenAI client with the settings of one of ours, if that package is installed."""

from __future__ import annotations

import importlib
from typing import Any

from ._http import Session, library_of
from ._settings import shorter


def make_openai(session: Session) -> Any:
    """An `openai.OpenAI`, or an `openai.AsyncOpenAI` for an async client.

    Raises ImportError, or TypeError if the package cannot use the client's HTTP library.
    """
    try:
        package = importlib.import_module("openai")
    except ImportError as error:
        raise ImportError("openai_client() needs the openai package: pip install openai") from error
    kind, settings, limits = session.kind, session.settings, session.settings.timeouts
    wrapper = getattr(package, f"Default{kind.replace('Client', 'HttpxClient')}")
    library = library_of(wrapper, kind)
    http_client = None
    if not session.connections.are_ours:
        http_client = session.connections.http
        if session.library is not library:
            raise TypeError(
                f"the installed openai package works with {library.__name__}, "
                f"and http_client is not a {library.__name__}.{kind}"
            )
    elif session.uds is not None:
        transport_type = getattr(library, kind.replace("Client", "HTTPTransport"))
        http_client = wrapper(transport=transport_type(uds=session.uds))
    headers = settings.default_headers.items()
    return getattr(package, kind.replace("Client", "OpenAI"))(
        base_url=f"{settings.base_url}/v1",
        api_key=settings.api_key or "no-key",  # the package insists on one
        max_retries=settings.max_retries,
        timeout=package.Timeout(shorter(limits.total_s, limits.answer_s), connect=limits.connect_s),
        default_headers={name: value for name, value in headers if value is not None},
        http_client=http_client,
    )
