"""The calls of a client that return the HTTP library's response."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from . import _calls as calls
from . import _routes as routes
from ._calls import Call

P = ParamSpec("P")
ResponseT = TypeVar("ResponseT")


class RawCalls(Generic[ResponseT]):
    """The same calls, returning the HTTP library's response.

    Error statuses still raise, and retries still happen.
    With `stream=True` the body has not been read, and closing the response is up to you.
    """

    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.completions = RawCreate(run, calls.completion)
        self.chat = RawChat(run)
        self.models = RawModels(run)
        self.embeddings = RawCreate(run, routes.embeddings)
        self.admin = RawAdmin(run)
        self.tokenize = _bound(run, routes.tokenize)
        self.detokenize = _bound(run, routes.detokenize)
        self.score_choices = _bound(run, routes.score_choices)
        self.perplexity = _bound(run, routes.perplexity)
        self.cancel = _bound(run, routes.cancel)
        self.usage = _bound(run, routes.usage)
        self.health = _bound(run, routes.health)
        self.version = _bound(run, routes.version)
        self.load = _bound(run, routes.load)
        self.metrics = _bound(run, routes.metrics)


class RawCreate(Generic[P, ResponseT]):
    def __init__(
        self, run: Callable[[Call[Any]], ResponseT], build: Callable[P, Call[Any]]
    ) -> None:
        self.create = _bound(run, build)


class RawChat(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.create = _bound(run, calls.chat)
        self.completions = RawCreate(run, calls.chat)


class RawModels(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.list = _bound(run, routes.list_models)
        self.retrieve = _bound(run, routes.retrieve_model)


class RawAdmin(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.lora = RawLoading(run, routes.load_adapter, routes.unload_adapter)
        self.models = RawLoading(run, routes.load_model, routes.unload_model)
        self.cache = RawCache(run)
        self.drain = _bound(run, routes.drain)


Q = ParamSpec("Q")


class RawLoading(Generic[P, Q, ResponseT]):
    def __init__(
        self,
        run: Callable[[Call[Any]], ResponseT],
        load: Callable[P, Call[Any]],
        unload: Callable[Q, Call[Any]],
    ) -> None:
        self.load = _bound(run, load)
        self.unload = _bound(run, unload)


class RawCache(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.reset = _bound(run, routes.reset_cache)


def _bound(
    run: Callable[[Call[Any]], ResponseT], build: Callable[P, Call[Any]]
) -> Callable[P, ResponseT]:
    def call(*args: P.args, **kwargs: P.kwargs) -> ResponseT:
        return run(build(*args, **kwargs))

    return call
