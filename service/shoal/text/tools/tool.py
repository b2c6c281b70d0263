"""The tools of one request, checked; and a call of one, as a message of a chat holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON Schema of its arguments, an object; empty: it takes none."""
    strict: bool = False
    """The arguments must follow the schema also where the model chooses to call."""

    def for_template(self) -> dict[str, Any]:
        """As `transformers` hands it to chat templates."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        function["parameters"] = dict(self.parameters) or {"type": "object", "properties": {}}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Call:
    """A call that an assistant's message made."""

    id: str
    name: str
    arguments: Any
    """The parsed JSON object, or the text when it is none."""


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What a message may or must call."""

    mode: Literal["none", "auto", "required"]
    name: str | None = None
    """With `required`: the one function to call, once."""
    parallel: bool = True
    """May the message hold several calls?"""
