"""`with_raw_response`: the same calls, returning the HTTP library's own response.

One set of classes for both clients: the functions of `_calls.py` have the signatures, and `run`
is the client's way to send a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from . import _calls as calls

P = ParamSpec("P")
ResponseT = TypeVar("ResponseT")


class RawCalls(Generic[ResponseT]):
    """Error statuses still raise, and retries still happen.

    With `stream=True` the body has not been read, and closing the response is up to you.
    """

    def __init__(self, run: Callable[[calls.Call[Any]], ResponseT]) -> None:
        self.completions = RawCreate(run, calls.completion)
        self.chat = RawCreate(run, calls.chat)
        self.models = RawModels(run)
        self.tokenize = _bound(run, calls.tokenize)
        self.detokenize = _bound(run, calls.detokenize)
        self.health = _bound(run, calls.health)


class RawCreate(Generic[P, ResponseT]):
    def __init__(
        self, run: Callable[[calls.Call[Any]], ResponseT], build: Callable[P, calls.Call[Any]]
    ) -> None:
        self.create = _bound(run, build)


class RawModels(Generic[ResponseT]):
    def __init__(self, run: Callable[[calls.Call[Any]], ResponseT]) -> None:
        self.list = _bound(run, calls.list_models)
        self.retrieve = _bound(run, calls.retrieve_model)


def _bound(
    run: Callable[[calls.Call[Any]], ResponseT], build: Callable[P, calls.Call[Any]]
) -> Callable[P, ResponseT]:
    def call(*args: P.args, **kwargs: P.kwargs) -> ResponseT:
        return run(build(*args, **kwargs))

    return call
