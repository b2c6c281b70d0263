"""The language of chat templates: Jinja with what `transformers` adds, in an immutable sandbox.

Additions: `tojson` with options, `raise_exception`, `strftime_now`, loop controls, and blocks that
mark what the assistant generated. Who renders where, and within which limits: `chat_template.py`.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

FAILURES = (
    TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
    RecursionError, MemoryError,
)  # fmt: skip
"""What a template can raise on messages it was not written for."""
NOT_VALID = (*FAILURES, SyntaxError)
"""What reading a source can raise; SyntaxError: `break` outside of a loop."""
MARKS = ("\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3")
"""Noncharacters of Unicode that we put into texts to find places again (`chat_tokens.py`)."""
GENERATED_MARKS = ("\ufde0", "\ufde1")
"""The same: the beginning and the end of what stands in a generation block."""
_TO_ESCAPE = re.compile(rf"[^\x00-\x7e{''.join(MARKS)}]")


class TemplateRefused(TemplateError):
    """The template itself said that the messages are not acceptable."""


class TooLongError(Exception):
    """The text has more characters than it may."""


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks for a trainer what to learn; when a prompt is
    made it is what stands inside."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _MarkedGenerationBlock(_GenerationBlock):
    """The same, with marks around what stands inside."""

    def parse(self, parser: Parser) -> list[nodes.Node]:  # type: ignore[override]
        block = super().parse(parser)
        begin, end = (
            nodes.Output([nodes.TemplateData(mark)], lineno=block.lineno)
            for mark in GENERATED_MARKS
        )
        return [begin, block, end]


def parse_template(source: str) -> nodes.Template:
    """Nothing of it is computed. Raises one of `NOT_VALID`."""
    return _environment().parse(source)


def compile_template(source: str, marks_generated: bool = False) -> Template:
    """Computes the template's constant parts. `marks_generated`: with `GENERATED_MARKS` around
    generation blocks. Raises one of `NOT_VALID`."""
    return _environment(marks_generated).from_string(source)


def render_template(template: Template, variables: Mapping[str, Any], max_chars: int) -> str:
    """Raises TemplateRefused, TooLongError, or another of `FAILURES`."""
    pieces: list[str] = []
    size = 0
    for piece in template.generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > max_chars:
            raise TooLongError
    return "".join(pieces)


def _environment(marks_generated: bool = False) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[
            loopcontrols,
            _MarkedGenerationBlock if marks_generated else _GenerationBlock,
        ],
        autoescape=False,
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; this one does not, as in `transformers`."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return _TO_ESCAPE.sub(_json_escape, text) if ensure_ascii else text  # our marks must survive


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _refuse(message: str) -> None:
    raise TemplateRefused(message)
