'''Python functions as tools of a chat: their JSON schema, and calling them as a model asks.

    @tool
    def weather(city: str, unit: Literal["C", "F"] = "C") -> str:
        """The weather in a city now."""
        return look_up(city, unit)

    run = client.chat.run_tools(messages, tools=[weather])
    print(run.text)
    messages = run.messages

The schema comes from the signature, the descriptions from the docstring: its first paragraph, and
an `Args:` section in Google's style. `Annotated[int, Field(description=...)]` works too.
'''

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import (
    Annotated,
    Any,
    Generic,
    NotRequired,
    ParamSpec,
    TypeVar,
    get_type_hints,
    overload,
)

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from ._types import ChatCompletion, ToolCall

P = ParamSpec("P")
ReturnT = TypeVar("ReturnT")


class ToolError(Exception):
    """Raise it in a tool to tell the model what went wrong; other exceptions end `run_tools`."""


class Tool(Generic[P, ReturnT]):
    """A function that a model may call; calling the tool calls the function."""

    def __init__(
        self,
        function: Callable[P, ReturnT],
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool | None = None,
    ) -> None:
        """`strict` forces the schema on the arguments where the server can.

        Raises TypeError for a function whose arguments cannot be given by name.
        """
        self.function = function
        self.name = name or function.__name__
        summary, arguments = _read_docstring(inspect.getdoc(function) or "")
        self.description = summary if description is None else description
        self.strict = strict
        self.is_async = inspect.iscoroutinefunction(function)
        self._arguments = _arguments_type(function, self.name, arguments)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ReturnT:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"

    def to_dict(self) -> dict[str, Any]:
        """The tool as the API takes it."""
        schema = self._arguments.json_schema()
        schema.pop("title", None)
        for part in schema.get("properties", {}).values():
            part.pop("title", None)
        function: dict[str, Any] = {"name": self.name, "parameters": schema}
        if self.description:
            function["description"] = self.description
        if self.strict is not None:
            function["strict"] = self.strict
        return {"type": "function", "function": function}

    def read_arguments(self, text: str) -> dict[str, Any]:
        """The checked arguments by name, from a model's JSON. Raises ToolError."""
        try:
            # Those not given keep the function's own defaults.
            return self._arguments.validate_json(text or "{}")
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, problem['loc'])) or 'arguments'}: {problem['msg']}"
                for problem in error.errors(include_url=False, include_input=False)
            ]
            raise ToolError(f"invalid arguments: {'; '.join(problems)}") from error


@overload
def tool(function: Callable[P, ReturnT]) -> Tool[P, ReturnT]: ...


@overload
def tool(
    *, name: str | None = ..., description: str | None = ..., strict: bool | None = ...
) -> Callable[[Callable[P, ReturnT]], Tool[P, ReturnT]]: ...


def tool(function: Any = None, **settings: Any) -> Any:
    """A decorator that makes a function a tool of a chat: `@tool`, or `@tool(name="search")`.

    Takes `name`, `description` and `strict`; without them the function's name and docstring count.
    """
    if function is None:
        return partial(Tool, **settings)
    return Tool(function, **settings)


@dataclass(frozen=True)
class ToolRun:
    """The result of `chat.run_tools`."""

    completion: ChatCompletion
    """The last answer, which calls no tool."""
    messages: list[Any] = field(repr=False)
    """The whole conversation, that answer included; the beginning of a next one."""
    completions: list[ChatCompletion] = field(repr=False)
    """Every answer, the last included."""

    @property
    def text(self) -> str:
        """Text of the last answer."""
        return self.completion.text

    @property
    def parsed(self) -> Any:
        """The last answer as the class given as `response_format`. Raises ParseFailed."""
        return self.completion.parsed


def tool_json(item: Tool[..., Any] | Callable[..., Any] | Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the API takes it."""
    if isinstance(item, Mapping):
        return dict(item)
    return as_tool(item).to_dict()


def as_tool(item: Tool[..., Any] | Callable[..., Any]) -> Tool[..., Any]:
    """The tool of a function. Raises TypeError for anything else."""
    if isinstance(item, Tool):
        return item
    if not inspect.isroutine(item):
        raise TypeError(f"a tool must be a function, a Tool or a dict; got {type(item).__name__}")
    return Tool(item)


def tools_by_name(
    items: Sequence[Tool[..., Any] | Callable[..., Any]], *, coroutines: bool
) -> dict[str, Tool[..., Any]]:
    """The tools that `run_tools` may call. Raises TypeError for those it cannot, ValueError for
    two of one name."""
    tools: dict[str, Tool[..., Any]] = {}
    for item in items:
        found = as_tool(item)
        if found.is_async and not coroutines:
            raise TypeError(f"tool {found.name!r} is async: use AsyncClient")
        if found.name in tools:
            raise ValueError(f"two tools are named {found.name!r}")
        tools[found.name] = found
    return tools


def prepared(call: ToolCall, tools: Mapping[str, Tool[..., Any]]) -> Callable[[], Any]:
    """The function call that a model asks for. Raises ToolError."""
    found = tools.get(call.function.name)
    if found is None:
        raise ToolError(f"there is no tool {call.function.name!r}; there are {', '.join(tools)}")
    arguments = found.read_arguments(call.function.arguments)
    return partial(found.function, **arguments)


def tool_message(call: ToolCall, result: Any) -> dict[str, Any]:
    """The message that brings a tool's result, or its ToolError, to the model."""
    if isinstance(result, ToolError):
        content = json.dumps({"error": str(result)}, ensure_ascii=False)
    elif isinstance(result, str):
        content = result
    else:
        content = TypeAdapter(Any).dump_json(result).decode()
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def _arguments_type(
    function: Callable[..., Any], name: str, descriptions: Mapping[str, str]
) -> TypeAdapter[dict[str, Any]]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"tool {name!r}: {parameter} cannot be given by name")
        shown: dict[str, Any] = {}
        if text := descriptions.get(parameter.name):
            shown["description"] = text
        hint = hints.get(parameter.name, Any)
        if parameter.default is not parameter.empty:
            shown["default"] = to_jsonable_python(parameter.default, fallback=repr)
            hint = NotRequired[hint]
        fields[parameter.name] = Annotated[hint, Field(json_schema_extra=shown)]
    make_type: Any = TypedDict  # a type checker wants one with a fixed name and fields
    arguments = make_type(name, fields)
    arguments.__pydantic_config__ = ConfigDict(extra="forbid")
    return TypeAdapter(arguments)


def _read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The first paragraph, and the descriptions of an `Args:` section."""
    summary = " ".join(text.partition("\n\n")[0].split())
    _, _, section = text.partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    current = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        if found := re.match(r" {2,4}(\w+)(?: \(.*?\))?: *(.*)", line):
            current = found[1]
            arguments[current] = found[2]
        elif current and line.strip():
            arguments[current] += f" {line.strip()}"
    return summary, arguments
