"""What a message with tool calls may look like, as a Lark grammar of llguidance.

A forced message is its calls and nothing else. A free one is text; from the mark that begins calls
on it is calls, to its end, so the model neither breaks off a call nor answers it itself. Reasoning
may come first in both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec

from shoal.text.reasoning import ReasoningMarks
from shoal.text.recent import Recent
from shoal.text.tokenizer import Tokenizer
from shoal.text.tools.formats import Forced, Mark, ToolFormat
from shoal.text.tools.schema import ANY_OBJECT, NO_ARGUMENTS, closed
from shoal.text.tools.tool import Tool, ToolChoice

Thinking = Literal["no", "possible", "opened"]
"""Whether reasoning comes first: `opened`, where the prompt began it."""

_recent: Recent[str] = Recent(256, 8 << 20)


@dataclass(frozen=True)
class MessageGrammar:
    """The grammar of a message."""

    tool_format: ToolFormat
    tools: Sequence[Tool]
    choice: ToolChoice
    tokenizer: Tokenizer
    reasoning: ReasoningMarks | None = None
    thinking: Thinking = "no"
    content: Mapping[str, Any] | None = None
    """A JSON Schema that text without calls must follow, with llguidance's options."""

    @cached_property
    def _mark_ids(self) -> dict[str, int]:
        """A mark that is one token of the vocabulary can only come as that token."""
        texts = (*self.tool_format.marks, *(self.reasoning or ()))
        ids = self.tokenizer.added_ids
        return {text: ids[text] for text in texts if text in ids}

    def known(self) -> str | None:
        """The grammar, if it was made not long ago."""
        return _recent.get(self._key)

    def make(self) -> str:
        """Raises InvalidRequest for a schema that the format cannot force."""
        lark = self._lark()
        _recent.put(self._key, lark, len(lark) + len(self._schemas))
        return lark

    @cached_property
    def _schemas(self) -> bytes:
        functions = [(tool.name, tool.parameters, tool.strict) for tool in self.tools]
        return msgspec.json.encode((functions, self.content))

    @cached_property
    def _key(self) -> tuple[object, ...]:
        """All that the grammar depends on."""
        return (self.tool_format, self._schemas, self.choice, tuple(self._mark_ids.items()),
                self.reasoning, self.thinking)  # fmt: skip

    def _mark(self, text: str) -> str:
        ids = self._mark_ids
        return f"<[{ids[text]}]>" if text in ids else json.dumps(text)

    def _lark(self) -> str:
        mark, tool_format, tools, choice = self._mark, self.tool_format, self.tools, self.choice
        reasoning, thinking, content = self.reasoning, self.thinking, self.content
        lines = ["%llguidance {}", r"TEXT: /(.|\n)*/"]
        start = "answer"
        if reasoning is not None and thinking != "no":
            lines += _until("think", "TEXT", reasoning.end, mark)
            begun = "think GAP answer"
            start = begun if thinking == "opened" else f"{mark(reasoning.begin)} {begun} | answer"
            lines.append(r"GAP: /\n{0,2}/")
        lines.append(f"start: {start}")
        if not tools:
            return "\n".join([*lines, f"answer: %json {json.dumps(content)}"])
        functions = [forced(tool, choice) for tool in tools if choice.name in (None, tool.name)]
        parallel = choice.parallel and choice.name is None
        lines += tool_format.rules(functions, mark, parallel=parallel)
        if choice.mode == "required":
            begin = f"{mark(tool_format.begins[0])} " if not tool_format.bare_begin else ""
            return "\n".join([*lines, f"answer: {begin}calls"])
        answers = ["content"]
        if tool_format.bare_begin:
            answers.append("calls")
        for i, begin in enumerate(tool_format.begins):
            if content is None:
                lines += _until(f"lead_{i}", "FREE", begin, mark)
                answers.append(f"lead_{i} calls")
            else:
                answers.append(f"{mark(begin)} calls")
        if content is None:
            avoided = _avoided(
                tool_format, functions, reasoning if thinking == "possible" else None
            )
            lines += [f"FREE: {' & '.join(['TEXT', *avoided])}", "content: FREE"]
        else:
            lines.append(f"content: %json {json.dumps(content)}")
        return "\n".join([*lines, f"answer: {' | '.join(answers)}"])


def forced(tool: Tool, choice: ToolChoice) -> Forced:
    """What the arguments of a call of this tool must be."""
    if choice.mode == "auto" and not tool.strict:
        return Forced(tool.name, ANY_OBJECT)
    return Forced(tool.name, closed(dict(tool.parameters)) if tool.parameters else NO_ARGUMENTS)


def _avoided(
    tool_format: ToolFormat, functions: Sequence[Forced], reasoning: ReasoningMarks | None
) -> list[str]:
    """What free text does not begin with: what something else begins with."""
    heads = []
    if tool_format.bare_begin:
        heads.append(tool_format.bare_pattern("|".join(function.name for function in functions)))
    if reasoning is not None:
        heads.append("".join(f"\\{char}" if char in "[]/" else char for char in reasoning.begin))
    return [rf"~/\s*{head}(.|\n)*/" for head in heads]


def _until(name: str, text: str, end: str, mark: Mark) -> list[str]:
    """A rule for text up to and with the first `end`, be it a token of its own or spelled."""
    spelled = f"{name}_spelled[lazy]: {text} {json.dumps(end)}"
    token = mark(end)
    if token == json.dumps(end):
        return [spelled, f"{name}: {name}_spelled"]
    return [spelled, f"{name}: {name}_spelled | {text} {token}"]
