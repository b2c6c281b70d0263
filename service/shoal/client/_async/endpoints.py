"""`client.completions`, `.chat`, `.models` and `.embeddings`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from shoal.client import _calls as calls
from shoal.client import _routes as routes
from shoal.client._concurrency import call_tool_async
from shoal.client._errors import ToolRoundsExceeded
from shoal.client._params import Messages, Prompt
from shoal.client._results import EmbeddingList, Model, ModelList
from shoal.client._tools import (
    Tool,
    ToolError,
    ToolRun,
    prepared,
    tool_message,
    tools_by_name,
)
from shoal.client._types import (
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChunk,
    ParsedChatCompletion,
    ParsedCompletion,
)

from .driver import AsyncDriver
from .stream import AsyncStream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from shoal.client._params import (
        ChatParams,
        ChatParseParams,
        ChatToolParams,
        CompletionFields,
        CompletionParams,
        Extras,
    )

T = TypeVar("T")


class AsyncEndpoints:
    def __init__(self, driver: AsyncDriver) -> None:
        self._driver = driver


class AsyncCompletions(AsyncEndpoints):
    """`client.completions`"""

    @overload
    async def create(
        self, prompt: Prompt, *, stream: Literal[False] = ..., **params: Unpack[CompletionParams]
    ) -> Completion: ...

    @overload
    async def create(
        self, prompt: Prompt, *, stream: Literal[True], **params: Unpack[CompletionParams]
    ) -> AsyncStream[CompletionChunk, Completion]: ...

    @overload
    async def create(
        self, prompt: Prompt, *, stream: bool, **params: Unpack[CompletionParams]
    ) -> Completion | AsyncStream[CompletionChunk, Completion]: ...

    async def create(
        self, prompt: Prompt, *, stream: bool = False, **params: Unpack[CompletionParams]
    ) -> Completion | AsyncStream[CompletionChunk, Completion]:
        """Continues a prompt, or each of several; with `stream` as chunks while it runs."""
        call = calls.completion(prompt, stream=stream, **params)
        return await (self._driver.run_stream(call) if stream else self._driver.run(call))

    @overload
    async def parse(
        self,
        prompt: Prompt,
        response_format: type[T],
        *,
        stream: Literal[False] = ...,
        **params: Unpack[CompletionFields],
    ) -> ParsedCompletion[T]: ...

    @overload
    async def parse(
        self,
        prompt: Prompt,
        response_format: type[T],
        *,
        stream: Literal[True],
        **params: Unpack[CompletionFields],
    ) -> AsyncStream[CompletionChunk, ParsedCompletion[T]]: ...

    async def parse(
        self,
        prompt: Prompt,
        response_format: type[T],
        *,
        stream: bool = False,
        **params: Unpack[CompletionFields],
    ) -> ParsedCompletion[T] | AsyncStream[CompletionChunk, ParsedCompletion[T]]:
        """Continues a prompt with the JSON of a class, read into `.parsed`.

        Any type that pydantic reads will do. Raises ParseFailed if the text does not fit; of a
        stream, `.final().parsed` does.
        """
        call = calls.parsed_completion(prompt, response_format, stream=stream, **params)
        if stream:
            return await self._driver.run_stream(call)
        result = await self._driver.run(call)
        result.all_parsed()  # raises now if there is something to raise
        return result


class AsyncChat(AsyncEndpoints):
    """`client.chat`, also by the longer name `client.chat.completions`"""

    @property
    def completions(self) -> AsyncChat:
        """The same, as other clients name it."""
        return self

    @overload
    async def create(
        self, messages: Messages, *, stream: Literal[False] = ..., **params: Unpack[ChatParams]
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self, messages: Messages, *, stream: Literal[True], **params: Unpack[ChatParams]
    ) -> AsyncStream[ChatChunk, ChatCompletion]: ...

    @overload
    async def create(
        self, messages: Messages, *, stream: bool, **params: Unpack[ChatParams]
    ) -> ChatCompletion | AsyncStream[ChatChunk, ChatCompletion]: ...

    async def create(
        self, messages: Messages, *, stream: bool = False, **params: Unpack[ChatParams]
    ) -> ChatCompletion | AsyncStream[ChatChunk, ChatCompletion]:
        """Answers a conversation; with `stream` as chunks while it runs."""
        call = calls.chat(messages, stream=stream, **params)
        return await (self._driver.run_stream(call) if stream else self._driver.run(call))

    @overload
    async def parse(
        self,
        messages: Messages,
        response_format: type[T],
        *,
        stream: Literal[False] = ...,
        **params: Unpack[ChatParseParams],
    ) -> ParsedChatCompletion[T]: ...

    @overload
    async def parse(
        self,
        messages: Messages,
        response_format: type[T],
        *,
        stream: Literal[True],
        **params: Unpack[ChatParseParams],
    ) -> AsyncStream[ChatChunk, ParsedChatCompletion[T]]: ...

    async def parse(
        self,
        messages: Messages,
        response_format: type[T],
        *,
        stream: bool = False,
        **params: Unpack[ChatParseParams],
    ) -> ParsedChatCompletion[T] | AsyncStream[ChatChunk, ParsedChatCompletion[T]]:
        """Answers a conversation with the JSON of a class, read into `.parsed`.

        Any type that pydantic reads will do. Raises ParseFailed if the text does not fit; of a
        stream, or where the model calls tools instead, `.parsed` does.
        """
        call = calls.parsed_chat(messages, response_format, stream=stream, **params)
        if stream:
            return await self._driver.run_stream(call)
        result = await self._driver.run(call)
        if not result.tool_calls:
            result.all_parsed()  # raises now if there is something to raise
        return result

    async def run_tools(
        self,
        messages: Messages,
        *,
        tools: Sequence[Tool[..., Any] | Callable[..., Any]],
        max_rounds: int = 8,
        **params: Unpack[ChatToolParams],
    ) -> ToolRun:
        """Answers a conversation, calling the functions that the model asks for on the way.

        Their results go back to the model until it answers without a call, or ToolRoundsExceeded
        is raised after `max_rounds` of them. Wrong arguments, unknown names and a `ToolError` are
        told to the model; other exceptions of a function end the run. `tool_choice` counts for the
        first answer only.
        """
        functions = tools_by_name(tools, coroutines=self._driver.runs_coroutines)
        if max_rounds < 1:
            raise ValueError(f"max_rounds must be at least 1; got {max_rounds}")
        history: list[Any] = list(messages)
        answers: list[ChatCompletion] = []
        while True:
            answer = await self.create(history, tools=list(functions.values()), **params)
            answers.append(answer)
            history.append(answer.message)
            if not answer.tool_calls:
                return ToolRun(answer, history, answers)
            if len(answers) > max_rounds:
                raise ToolRoundsExceeded(
                    f"the model still calls tools after {max_rounds} rounds",
                    messages=history,
                    request_id=answer.request_id,
                )
            for call in answer.tool_calls:
                try:
                    result = await call_tool_async(prepared(call, functions))
                except ToolError as error:
                    result = error
                history.append(tool_message(call, result))
            params.pop("tool_choice", None)


class AsyncModels(AsyncEndpoints):
    """`client.models`"""

    async def list(self, **extras: Unpack[Extras]) -> ModelList:
        """Every model, also those that are still loading; a list, with the same in `.data`."""
        return await self._driver.run(routes.list_models(**extras))

    async def retrieve(self, model: str, **extras: Unpack[Extras]) -> Model:
        """One model. Raises ModelNotFound."""
        return await self._driver.run(routes.retrieve_model(model, **extras))


class AsyncEmbeddings(AsyncEndpoints):
    """`client.embeddings`"""

    async def create(
        self,
        input: Prompt,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        encoding_format: Literal["float", "base64"] = "base64",
        **extras: Unpack[Extras],
    ) -> EmbeddingList:
        """The vector of a text, or of each of several; `encoding_format` is how they travel."""
        call = routes.embeddings(
            input, model=model, dimensions=dimensions, encoding_format=encoding_format, **extras
        )
        return await self._driver.run(call)
