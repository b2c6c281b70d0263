"""`completions`, `chat` and `models` of the asynchronous client: signatures for people and type
checkers. What they send is in `_calls.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from . import _calls as calls
from ._async_driver import AsyncDriver
from ._collect import ChatCollector, CompletionCollector
from ._params import Prompt
from ._stream_io import AsyncStream
from ._types import ChatChunk, ChatCompletion, Completion, CompletionChunk, Model, ModelList

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._params import ChatParams, CompletionParams, Extras


class AsyncCompletions:
    """`client.completions`"""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver

    @overload
    async def create(
        self,
        prompt: Prompt,
        *,
        model: str | None = ...,
        stream: Literal[False] = ...,
        **params: Unpack[CompletionParams],
    ) -> Completion: ...

    @overload
    async def create(
        self,
        prompt: Prompt,
        *,
        model: str | None = ...,
        stream: Literal[True],
        **params: Unpack[CompletionParams],
    ) -> AsyncStream[CompletionChunk, Completion]: ...

    @overload
    async def create(
        self,
        prompt: Prompt,
        *,
        model: str | None = ...,
        stream: bool,
        **params: Unpack[CompletionParams],
    ) -> Completion | AsyncStream[CompletionChunk, Completion]: ...

    async def create(
        self,
        prompt: Prompt,
        *,
        model: str | None = None,
        stream: bool = False,
        **params: Unpack[CompletionParams],
    ) -> Completion | AsyncStream[CompletionChunk, Completion]:
        """Continues a prompt, or each of several; with `stream` as chunks while it runs."""
        call = calls.completion(prompt, model=model, stream=stream, **params)
        if not stream:
            return await self._driver.run(call)
        return await self._driver.run_stream(call, CompletionCollector(call.num_choices))


class AsyncChat:
    """`client.chat`"""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver

    @overload
    async def create(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = ...,
        stream: Literal[False] = ...,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = ...,
        stream: Literal[True],
        **params: Unpack[ChatParams],
    ) -> AsyncStream[ChatChunk, ChatCompletion]: ...

    @overload
    async def create(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = ...,
        stream: bool,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion | AsyncStream[ChatChunk, ChatCompletion]: ...

    async def create(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str | None = None,
        stream: bool = False,
        **params: Unpack[ChatParams],
    ) -> ChatCompletion | AsyncStream[ChatChunk, ChatCompletion]:
        """Answers a conversation; with `stream` as chunks while it runs."""
        call = calls.chat(messages, model=model, stream=stream, **params)
        if not stream:
            return await self._driver.run(call)
        return await self._driver.run_stream(call, ChatCollector(call.num_choices))


class AsyncModels:
    """`client.models`"""

    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver

    async def list(self, **extras: Unpack[Extras]) -> ModelList:
        """Every model, loading ones too, in `.data`."""
        return await self._driver.run(calls.list_models(**extras))

    async def retrieve(self, model: str, **extras: Unpack[Extras]) -> Model:
        """One model. Raises ModelNotFound."""
        return await self._driver.run(calls.retrieve_model(model, **extras))
