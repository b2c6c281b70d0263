"""Renders a model's chat template, whatever the template does.

Templates come from the model folder or the operator, never from a request, and yet a downloaded
folder is nobody's friend: `('a' * 10**9) | length` takes a gigabyte in one step, and already when
the template is compiled. So there are two places:

- **Here**, for a template of which `template_bounds.py` has shown that no single step of it makes
  more than a small multiple of what it is given. It is watched between its steps, and what takes
  longer than `SECONDS_HERE` is done again at the other place. Most published templates are such.
- **In a process of its own** (`template_worker.py`) with limits of time and memory: the others.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from types import FrameType
from typing import Any

from jinja2 import Template, nodes

from shoal.errors import InvalidRequest, ModelFolderError
from shoal.text.template_bounds import has_bounded_steps
from shoal.text.template_language import (
    FAILURES,
    NOT_VALID,
    TemplateRefused,
    TooLongError,
    compile_template,
    parse_template,
    render_template,
)
from shoal.text.workers import WorkerEnded, Workers

MAX_SOURCE_CHARS = 1 << 18
"""Ten times the longest known."""
SECONDS_HERE = 0.02
"""Of computing, for one rendering in this process."""
_WORKER_LIMIT_S = 10.0
"""Of wall time; its computing has a limit of its own, which a busy machine does not use up."""
_NUM_WORKERS = 2

_workers = Workers("shoal.text.template_worker", _NUM_WORKERS, _WORKER_LIMIT_S)


class MustWait(Exception):
    """Rendering needs the other process, for which an event loop must not wait."""


class OverLimit(InvalidRequest):
    """Rendering took too long, or too much memory."""


class _TooSlowError(Exception):
    """The template ran longer than it may."""


class ChatTemplate:
    """One template, found to be valid."""

    def __init__(self, source: str) -> None:
        """Raises ModelFolderError for a template that is not valid Jinja, or cannot be compiled
        within the limits. May wait for the other process."""
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelFolderError(f"chat template has more than {MAX_SOURCE_CHARS} characters")
        try:
            parsed = parse_template(source)
            self.is_bounded = has_bounded_steps(parsed)
            self._template = compile_template(source) if self.is_bounded else None
            self.literals = _literals(parsed)
            """Its own text: what stands between tags, and strings inside them."""
        except NOT_VALID as error:
            raise _not_valid(str(error)) from error
        self.source = source
        if not self.is_bounded:
            self._check_elsewhere()

    @property
    def has_generation_blocks(self) -> bool:
        """Does it say what the assistant generated? (It may still do so for no message.)"""
        return "endgeneration" in self.source

    @cached_property
    def _marking_template(self) -> Template:
        return compile_template(self.source, marks_generated=True)

    def render(
        self,
        variables: Mapping[str, Any],
        *,
        max_chars: int,
        may_wait: bool = True,
        is_watched: bool = True,
        marks_generated: bool = False,
    ) -> str:
        """The prompt text. `may_wait`: for the other process; without it, raises MustWait where
        that is needed. `is_watched`: with the limit of time here, which makes rendering 2 to 4
        times slower. `marks_generated`: with marks around generation blocks. Raises InvalidRequest
        when the template refuses the messages, fails on them, or passes a limit (OverLimit: of time
        or memory)."""
        try:
            if self._template is not None:
                template = self._marking_template if marks_generated else self._template
                with _time_limit(SECONDS_HERE) if is_watched else nullcontext():
                    return render_template(template, variables, max_chars)
        except TemplateRefused as error:
            raise _refused(str(error)) from error
        except TooLongError as error:
            raise _too_long(max_chars) from error
        except FAILURES as error:
            raise _failed() from error
        except _TooSlowError:
            pass
        if not may_wait:
            raise MustWait
        request = {"source": self.source, "variables": variables, "max_chars": max_chars}
        return self._render_elsewhere({**request, "marks_generated": marks_generated}, max_chars)

    def _render_elsewhere(self, request: Mapping[str, Any], max_chars: int) -> str:
        try:
            answer = _workers.ask(json.dumps(request))
        except RecursionError as error:  # it is too deep for JSON, and for a template
            raise _failed() from error
        except WorkerEnded as end:
            raise OverLimit(f"the chat template took {end}", param="messages") from end
        match answer:
            case {"text": str(text)}:
                return text
            case {"refused": str(message)}:
                raise _refused(message)
            case {"too_long": _}:
                raise _too_long(max_chars)
        raise _failed()

    def _check_elsewhere(self) -> None:
        try:
            answer = _workers.ask(json.dumps({"source": self.source}))
        except WorkerEnded as end:
            raise ModelFolderError(
                f"chat template takes {end} to compile: use another one for the model"
            ) from end
        if "invalid" in answer:
            raise _not_valid(answer["invalid"])


def _literals(parsed: nodes.Template) -> list[str]:
    constants = (node.value for node in parsed.find_all(nodes.Const))
    return [
        *(node.data for node in parsed.find_all(nodes.TemplateData)),
        *(value for value in constants if isinstance(value, str)),
    ]


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Ends template code at the first line it begins after `seconds` of its own computing, also
    in loops that write nothing. (Tracing is the one way to do so inside a thread; a template has
    few lines. A busy machine does not count against it.)"""
    end, earliest_end = time.thread_time() + seconds, time.monotonic() + seconds

    def each_line(frame: FrameType, event: str, arg: Any) -> Any:
        # Wall time is quick to read, and no less than that of computing.
        if time.monotonic() > earliest_end and time.thread_time() > end:
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


def _not_valid(reason: str) -> ModelFolderError:
    return ModelFolderError(f"chat template is not valid Jinja: {reason}")


def _refused(words: str) -> InvalidRequest:
    return InvalidRequest(words[:200], param="messages")


def _too_long(max_chars: int) -> InvalidRequest:
    return InvalidRequest(f"messages render to more than {max_chars} characters", param="messages")


def _failed() -> InvalidRequest:
    return InvalidRequest(
        "the model's chat template cannot render these messages", param="messages"
    )
