"""What an answer may have to look like. Each spec says which key of the request it came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

Schema = Mapping[str, Any] | bool
"""A JSON schema (draft 2020-12)."""


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Any JSON object."""

    param: str


@dataclass(frozen=True)
class JsonSchema:
    """Compact JSON, without spaces between its parts, that a schema allows."""

    schema: Schema
    param: str

    @cached_property
    def text(self) -> bytes:
        """The schema as JSON, keys in their order: the same for the same schema."""
        return msgspec.json.encode(self.schema)


@dataclass(frozen=True, slots=True)
class Regex:
    """A text that the pattern matches as a whole. Syntax of Rust's `regex`: that of Python but for
    lookaround, backreferences and lazy repetition."""

    pattern: str
    param: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some texts."""

    options: tuple[str, ...]
    param: str


@dataclass(frozen=True, slots=True)
class Lark:
    """A context-free grammar: Lark as llguidance reads it, or GBNF as llama.cpp does. Its rule
    `start` (GBNF: `root`) is the whole answer; `%json {...}` is JSON of a schema."""

    grammar: str
    param: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A structured part of a text, such as one tool's call: `begin`, JSON of `schema`, `end`."""

    begin: str
    """Starts with the spec's trigger."""
    schema: Schema
    end: str = ""


@dataclass(frozen=True, slots=True)
class Tagged:
    """Text in which tags occur: free until a trigger, which only a tag can follow."""

    tags: tuple[Tag, ...]
    triggers: tuple[str, ...]
    """Each tag's `begin` starts with one of them. A special token's name stands for that token."""
    param: str
    at_least_one: bool = False
    parallel: bool = True
    """May there be several tags?"""
    free_text: bool = True
    """May there be text before, between and after the tags? Else the answer is tags only."""
    separator: str = ""
    """Stands between tags where no text may."""


GrammarSpec = JsonObject | JsonSchema | Regex | Choice | Lark | Tagged
