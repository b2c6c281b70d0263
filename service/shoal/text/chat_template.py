"""Renders a model's chat template in an immutable sandbox, with limits on size and time.

Templates come from the model folder or the operator, never from a request. The language is
Jinja with what `transformers` adds: `tojson` with options, `raise_exception`, `strftime_now`,
loop controls, and blocks that mark what the assistant generated.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal.errors import InvalidRequest, ModelFolderError

MAX_SECONDS = 1.0

_FAILURES = (
    TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
    RecursionError, MemoryError,
)  # fmt: skip
"""What a template can raise on messages it was not written for."""

MARKS = ("\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3")
"""Noncharacters of Unicode that we put into texts to find places again (`chat_tokens.py`)."""
_TO_ESCAPE = re.compile(rf"[^\x00-\x7e{''.join(MARKS)}]")


class _TemplateRefused(TemplateError):
    """The template itself said that the messages are not acceptable."""


class _TooSlowError(TemplateError):
    """The template ran longer than it may."""


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks for a trainer what to learn; when a prompt is
    made it is what stands inside."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str) -> None:
        """Raises ModelFolderError for a template that is not valid Jinja."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationBlock],
            autoescape=False,
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        try:
            parsed = environment.parse(source)
            self._template = environment.from_string(source)
        except (*_FAILURES, SyntaxError) as error:  # SyntaxError: `break` outside of a loop
            raise ModelFolderError(f"chat template is not valid Jinja: {error}") from error
        self.source = source
        constants = (node.value for node in parsed.find_all(nodes.Const))
        self.literals = [
            *(node.data for node in parsed.find_all(nodes.TemplateData)),
            *(value for value in constants if isinstance(value, str)),
        ]
        """Its own text: what stands between tags, and strings inside them."""

    def render(self, variables: Mapping[str, Any], *, max_chars: int) -> str:
        """The prompt text. Raises InvalidRequest when the template refuses the messages, fails
        on them, or passes a limit."""
        try:
            with _time_limit(MAX_SECONDS):
                return self._joined(variables, max_chars)
        except _TemplateRefused as error:
            raise InvalidRequest(str(error)[:200], param="messages") from error
        except _TooSlowError as error:
            raise InvalidRequest("the chat template took too long", param="messages") from error
        except _FAILURES as error:
            raise InvalidRequest(
                "the model's chat template cannot render these messages", param="messages"
            ) from error

    def _joined(self, variables: Mapping[str, Any], max_chars: int) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > max_chars:
                raise InvalidRequest(
                    f"messages render to more than {max_chars} characters", param="messages"
                )
        return "".join(pieces)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends template code at the first line it begins after `seconds` of its own computing, also
    in loops that write nothing. (Tracing is the one way to do so inside a thread; a template has
    few lines. A busy machine does not count against it.)"""
    end = time.thread_time() + seconds

    def each_line(frame: FrameType, event: str, arg: Any) -> Any:
        if time.thread_time() > end:
            raise _TooSlowError
        return each_line

    def each_call(frame: FrameType, event: str, arg: Any) -> Any:
        return each_line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        yield
    finally:
        sys.settrace(before)


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
    raise _TemplateRefused(message)
