# Generated from _async/endpoints.py by deploy/generate_sync_client.py; to update: make fix
"""`client.completions`, `.chat`, `.models` and `.embeddings`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from shoal.client import _calls as calls
from shoal.client import _routes as routes
from shoal.client._concurrency import call_tool
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

from .driver import Driver
from .stream import Stream

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


class Endpoints:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver


class Completions(Endpoints):
    """`client.completions`"""

    @overload
    def create(
        self, prompt: Prompt, *, stream: Literal[False] = ..., **params: Unpack[CompletionParams]
    ) -> Completion: ...

    @overload
    def create(
        self, prompt: Prompt, *, stream: Literal[True], **params: Unpack[CompletionParams]
    ) -> Stream[CompletionChunk, Completion]: ...

    @overload
    def create(
        self, prompt: Prompt, *, stream: bool, **params: Unpack[CompletionParams]
    ) -> Completion | Stream[CompletionChunk, Completion]: ...

    def create(
        self, prompt: Prompt, *, stream: bool = False, **params: Unpack[CompletionParams]
    ) -> Completion | Stream[CompletionChunk, Completion]:
        """Continues a prompt, or each of several; with `stream` as chunks while it runs."""
        call = calls.completion(prompt, stream=stream, **params)
        return self._driver.run_stream(call) if stream else self._driver.run(call)

    @overload
    def parse(
        self,
        prompt: Prompt,
        response_format: type[T],
        *,
        stream: Literal[False] = ...,
        **params: Unpack[CompletionFields],
    ) -> ParsedCompletion[T]: ...

    @overload
    def parse(
        self,
        prompt: Prompt,
        response_format: type[T],
        *,
        stream: Literal[True],
        **params: Unpack[CompletionFields],
    ) -> Stream[CompletionChunk, ParsedCompletion[T]]: ...

    def parse(
        self,
        prompt: Prompt,
        response_format: type[T],
        *,
        stream: bool = False,
        **params: Unpack[CompletionFields],
    ) -> ParsedCompletion[T] | Stream[CompletionChunk, ParsedCompletion[T]]:
        """Continues a prompt with the JSON of a class, read into `.parsed`.

        Any type that pydantic reads will do. Raises ParseFailed if the text does not fit; of a
        stream, `.final().parsed` does.
        """
        call = calls.parsed_completion(prompt, response_format, stream=stream, **params)
        if stream:
            return self._driver.run_stream(call)
        result = self._driver.run(call)
        result.all_parsed()  # raises now if there is something to raise
        return result


class Chat(Endpoints):
    """`client.chat`, also by the longer name `client.chat.completions`"""

    @property
    def completions(self) -> Chat:
        """The same, as other clients name it."""
        return self

    @overload
    def create(
        self, messages: Messages, *, stream: Literal[False] = ..., **params: Unpack[ChatParams]
    ) -> ChatCompletion: ...

    @overload
    def create(
        self, messages: Messages, *, stream: Literal[True], **params: Unpack[ChatParams]
    ) -> Stream[ChatChunk, ChatCompletion]: ...

    @overload
    def create(
        self, messages: Messages, *, stream: bool, **params: Unpack[ChatParams]
    ) -> ChatCompletion | Stream[ChatChunk, ChatCompletion]: ...

    def create(
        self, messages: Messages, *, stream: bool = False, **params: Unpack[ChatParams]
    ) -> ChatCompletion | Stream[ChatChunk, ChatCompletion]:
        """Answers a conversation; with `stream` as chunks while it runs."""
        call = calls.chat(messages, stream=stream, **params)
        return self._driver.run_stream(call) if stream else self._driver.run(call)

    @overload
    def parse(
        self,
        messages: Messages,
        response_format: type[T],
        *,
        stream: Literal[False] = ...,
        **params: Unpack[ChatParseParams],
    ) -> ParsedChatCompletion[T]: ...

    @overload
    def parse(
        self,
        messages: Messages,
        response_format: type[T],
        *,
        stream: Literal[True],
        **params: Unpack[ChatParseParams],
    ) -> Stream[ChatChunk, ParsedChatCompletion[T]]: ...

    def parse(
        self,
        messages: Messages,
        response_format: type[T],
        *,
        stream: bool = False,
        **params: Unpack[ChatParseParams],
    ) -> ParsedChatCompletion[T] | Stream[ChatChunk, ParsedChatCompletion[T]]:
        """Answers a conversation with the JSON of a class, read into `.parsed`.

        Any type that pydantic reads will do. Raises ParseFailed if the text does not fit; of a
        stream, or where the model calls tools instead, `.parsed` does.
        """
        call = calls.parsed_chat(messages, response_format, stream=stream, **params)
        if stream:
            return self._driver.run_stream(call)
        result = self._driver.run(call)
        if not result.tool_calls:
            result.all_parsed()  # raises now if there is something to raise
        return result

    def run_tools(
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
            answer = self.create(history, tools=list(functions.values()), **params)
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
                    result = call_tool(prepared(call, functions))
                except ToolError as error:
                    result = error
                history.append(tool_message(call, result))
            params.pop("tool_choice", None)


class Models(Endpoints):
    """`client.models`"""

    def list(self, **extras: Unpack[Extras]) -> ModelList:
        """Every model, also those that are still loading; a list, with the same in `.data`."""
        return self._driver.run(routes.list_models(**extras))

    def retrieve(self, model: str, **extras: Unpack[Extras]) -> Model:
        """One model. Raises ModelNotFound."""
        return self._driver.run(routes.retrieve_model(model, **extras))


class Embeddings(Endpoints):
    """`client.embeddings`"""

    def create(
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
        return self._driver.run(call)
