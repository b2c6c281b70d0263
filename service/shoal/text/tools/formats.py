"""The ways in which models write calls, each as its templates and its training have it.

A format knows how calls are read (a parser), written (for a template that has no place for past
calls) and forced (rules of a Lark grammar; `grammar.py` has the rest).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from shoal.text.own_text import OwnText, Part, ours, theirs
from shoal.text.tools.json_calls import JsonCallScanner
from shoal.text.tools.parser import ToolCallParser
from shoal.text.tools.pythonic import PythonicScanner
from shoal.text.tools.schema import json_rule, keyword_rules
from shoal.text.tools.tool import Call

Mark = Callable[[str], str]
"""A mark as Lark has it: a special token or a text."""


@dataclass(frozen=True, slots=True)
class Forced:
    """A function in a grammar: its name, and the schema of its arguments."""

    name: str
    schema: Mapping[str, Any]


class ToolFormat(Protocol):
    """One way to write calls."""

    @property
    def name(self) -> str: ...

    @property
    def begins(self) -> tuple[str, ...]:
        """Marks that begin calls, the one that we write and force first; none where calls are a
        whole message, which `bare_begin` then begins."""
        ...

    @property
    def bare_begin(self) -> str: ...

    @property
    def marks(self) -> tuple[str, ...]:
        """All texts that may be special tokens of the model."""
        ...

    @property
    def parallel(self) -> bool:
        """Can a message hold several calls?"""
        ...

    def parser(self, names: frozenset[str]) -> ToolCallParser:
        """Reads calls of these functions out of one message."""
        ...

    def write(self, calls: Sequence[Call]) -> OwnText:
        """The calls of a past message, as the model would have written them."""
        ...

    def rules(self, functions: Sequence[Forced], mark: Mark, *, parallel: bool) -> list[str]:
        """Lark: rule `calls`, what comes behind the mark that begins calls, to the last call's
        end, and rules that it needs."""
        ...

    def bare_pattern(self, names: str) -> str:
        """Regular expression: how calls without a mark begin. `names`: of the functions, as one."""
        ...

    def template_id(self, call_id: str) -> str:
        """A call's id as the templates want it."""
        ...


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """JSON objects with the name and the arguments of a function."""

    name: str
    begin: str = ""
    """The mark before calls; without one a whole message is a call."""
    end: str = ""
    is_list: bool = False
    """All calls stand in one list behind one mark; else each has a mark of its own."""
    space: str = ""
    """Between the marks and an object."""
    arguments: str = "arguments"
    """The key of the arguments."""
    other_begins: tuple[str, ...] = ()
    parallel: bool = True
    id_length: int = 0
    """Ids in a template have just so many letters and digits; 0: they are free."""

    @property
    def begins(self) -> tuple[str, ...]:
        return (self.begin, *self.other_begins) if self.begin else self.other_begins

    @property
    def bare_begin(self) -> str:
        return "" if self.begin else "{"

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.begins, self.end) if self.end else self.begins

    def parser(self, names: frozenset[str]) -> ToolCallParser:
        is_bare = not self.begin
        return ToolCallParser(
            self.begins,
            self.bare_begin,
            lambda: JsonCallScanner(
                names, end=self.end, separator=";" if is_bare else "", is_bare=is_bare
            ),
        )

    def write(self, calls: Sequence[Call]) -> OwnText:
        parts: list[Part] = []
        for index, call in enumerate(calls):
            if not self.is_list:
                parts += [ours("\n"), self._begin_part] if index else [self._begin_part]
            else:
                parts.append(ours(", ") if index else ours(self.begin + "["))
            parts.append(theirs(_dumped({"name": call.name, self.arguments: call.arguments})))
            if not self.is_list:
                parts.append(ours(self.space + self.end))
        return OwnText(*parts, ours("]" + self.end)) if self.is_list else OwnText(*parts)

    @property
    def _begin_part(self) -> Part:
        return ours(self.begin + self.space)

    def rules(self, functions: Sequence[Forced], mark: Mark, *, parallel: bool) -> list[str]:
        several = parallel and self.parallel
        space = f"{json.dumps(self.space)} " if self.space else ""
        end = f" {mark(self.end)}" if self.end else ""
        if self.is_list:
            more = ' (", " object)*' if several else ""
            rules = [f'calls: "[" object{more} "]"{end}']
        else:
            more = f' ("\\n" {mark(self.begin)} block)*' if several else ""
            rules = [f"calls: block{more}", f"block: {space}object {space}{end}"]
        rules.append("object: " + " | ".join(f"object_{i}" for i in range(len(functions))))
        for i, function in enumerate(functions):
            head = f'{{"name": "{function.name}", "{self.arguments}": '
            begin = json.dumps(head) if self.begin else bare_head(head)
            rules.append(f'object_{i}: {begin} arguments_{i} "}}"')
            rules.append(json_rule(f"arguments_{i}", function.schema))
        return rules

    def bare_pattern(self, names: str) -> str:
        return rf'\{{\s*"name"\s*:\s*"({names})"'

    def template_id(self, call_id: str) -> str:
        length = self.id_length
        if not length or (len(call_id) == length and call_id.isascii() and call_id.isalnum()):
            return call_id
        return sha256(call_id.encode(errors="replace")).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class PythonicFormat:
    """A Python list of calls with keyword arguments."""

    name: str
    begin: str = ""
    end: str = ""
    other_begins: tuple[str, ...] = ()
    parallel: bool = True

    @property
    def begins(self) -> tuple[str, ...]:
        return (self.begin, *self.other_begins) if self.begin else self.other_begins

    @property
    def bare_begin(self) -> str:
        return "" if self.begin else "["

    @property
    def marks(self) -> tuple[str, ...]:
        return (*self.begins, self.end) if self.end else self.begins

    def parser(self, names: frozenset[str]) -> ToolCallParser:
        return ToolCallParser(
            self.begins, self.bare_begin, lambda: PythonicScanner(names, end=self.end)
        )

    def write(self, calls: Sequence[Call]) -> OwnText:
        texts = ", ".join(
            f"{call.name}({', '.join(f'{key}={_python(value)}' for key, value in _pairs(call))})"
            for call in calls
        )
        return OwnText(ours(self.begin + "["), theirs(texts), ours("]" + self.end))

    def rules(self, functions: Sequence[Forced], mark: Mark, *, parallel: bool) -> list[str]:
        more = ' (", " call)*' if parallel else ""
        end = f" {mark(self.end)}" if self.end else ""
        rules = [f'calls: first{more} "]"{end}']
        names = [function.name for function in functions]
        # The bracket is one with the name: by itself it could as well begin a free text.
        for rule, bracket in (("first", "["), ("call", "")):
            heads = [f"{bracket}{name}(" for name in names]
            begins = map(bare_head if bracket and not self.begin else json.dumps, heads)
            calls = (f'{begin} keywords_{i} ")"' for i, begin in enumerate(begins))
            rules.append(f"{rule}: {' | '.join(calls)}")
        for i, function in enumerate(functions):
            rules += keyword_rules(f"keywords_{i}", function.schema)
        return rules

    def bare_pattern(self, names: str) -> str:
        return rf"\[\s*({names})\("

    def template_id(self, call_id: str) -> str:
        return call_id


def _pairs(call: Call) -> list[tuple[str, Any]]:
    return list(call.arguments.items()) if isinstance(call.arguments, dict) else []


def bare_head(text: str) -> str:
    """Lark: a text that begins a message. Lines before it are one with it, as with a free text."""
    return rf"/\n{{0,2}}{re.escape(text).replace('/', chr(92) + '/')}/"


def _python(value: Any) -> str:
    """A JSON value as a Python literal, its texts in the quotes of JSON."""
    if isinstance(value, dict):
        items = (f"{_dumped(key)}: {_python(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    return _dumped(value) if isinstance(value, str) else repr(value)


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
