"""The calls of a client that give the HTTP library's own response instead of a result.

One class for both clients: the builders of `_calls.py` have the signatures, `run` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from . import _calls as calls
from ._flow import Call

P = ParamSpec("P")
ResponseT = TypeVar("ResponseT")


class RawCompletions(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.create = _bound(run, calls.completion)


class RawChat(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.create = _bound(run, calls.chat)


class RawModels(Generic[ResponseT]):
    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.list = _bound(run, calls.list_models)
        self.retrieve = _bound(run, calls.retrieve_model)


class RawCalls(Generic[ResponseT]):
    """The same calls and arguments; error statuses still raise, and retries still happen.

    With `stream=True` the body has not been read, and closing the response is up to you.
    """

    def __init__(self, run: Callable[[Call[Any]], ResponseT]) -> None:
        self.completions = RawCompletions(run)
        self.chat = RawChat(run)
        self.models = RawModels(run)
        self.tokenize = _bound(run, calls.tokenize)
        self.detokenize = _bound(run, calls.detokenize)
        self.health = _bound(run, calls.health)


def _bound(
    run: Callable[[Call[Any]], ResponseT], build: Callable[P, Call[Any]]
) -> Callable[P, ResponseT]:
    def call(*args: P.args, **kwargs: P.kwargs) -> ResponseT:
        return run(build(*args, **kwargs))

    return call
