"""Renders a model's chat template in an immutable sandbox, with limits on size and time.

Templates come from the model folder or the operator, never from a request. The language is
Jinja as Hugging Face tokenizers use it.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal.errors import InvalidRequest, ModelFolderError

MAX_SECONDS = 1.0

_FAILURES = (
    TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError,
    RecursionError, MemoryError,
)  # fmt: skip
"""What a template can raise on messages it was not written for."""


class _TemplateRefused(TemplateError):
    """The template itself said that the messages are not acceptable."""


class _TooSlowError(TemplateError):
    """The template ran longer than it may."""


class ChatTemplate:
    """One compiled template."""

    def __init__(self, source: str) -> None:
        """Raises ModelFolderError for a template with a syntax error."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols], autoescape=False
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = datetime.now().strftime
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelFolderError(f"chat template is not valid: {error}") from error
        self.source = source

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any],
        add_generation_prompt: bool,
        max_chars: int,
    ) -> str:
        """The prompt text. Raises InvalidRequest when the template refuses the messages, fails
        on them, or passes a limit."""
        values = {
            **variables, "messages": messages, "add_generation_prompt": add_generation_prompt,
        }  # fmt: skip
        try:
            with _time_limit(MAX_SECONDS):
                return self._joined(values, max_chars)
        except _TemplateRefused as error:
            raise InvalidRequest(str(error)[:200], param="messages") from error
        except _TooSlowError as error:
            raise InvalidRequest("the chat template took too long", param="messages") from error
        except _FAILURES as error:
            raise InvalidRequest(
                "the model's chat template cannot render these messages", param="messages"
            ) from error

    def _joined(self, values: Mapping[str, Any], max_chars: int) -> str:
        pieces: list[str] = []
        size = 0
        for piece in self._template.generate(values):
            pieces.append(piece)
            size += len(piece)
            if size > max_chars:
                raise InvalidRequest(
                    f"messages render to more than {max_chars} characters", param="messages"
                )
        return "".join(pieces)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends template code at the first line it begins after `seconds`, also in loops that write
    nothing. (Tracing is the one way to do so inside a thread; a template has few lines.)"""
    end = time.monotonic() + seconds

    def each_line(frame: FrameType, event: str, arg: Any) -> Any:
        if time.monotonic() > end:
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


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise _TemplateRefused(message)
