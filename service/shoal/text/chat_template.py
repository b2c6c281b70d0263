"""Renders a model's chat template in an immutable sandbox, with limits on size and time.

Templates come from the model folder or the operator, never from a request. The language is
Jinja as Hugging Face tokenizers use it.
"""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal.errors import InvalidRequest, ModelFolderError

MAX_SECONDS = 1.0


class _TemplateRefused(TemplateError):
    """The template itself said that the messages are not acceptable."""


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
        pieces: list[str] = []
        size = 0
        end = time.monotonic() + MAX_SECONDS
        try:
            for piece in self._template.generate(
                {**variables, "messages": messages, "add_generation_prompt": add_generation_prompt}
            ):
                pieces.append(piece)
                size += len(piece)
                if size > max_chars:
                    raise InvalidRequest(
                        f"messages render to more than {max_chars} characters", param="messages"
                    )
                if time.monotonic() > end:
                    raise InvalidRequest("chat template took too long", param="messages")
        except _TemplateRefused as error:
            raise InvalidRequest(str(error)[:200], param="messages") from error
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise InvalidRequest(
                "the model's chat template cannot render these messages", param="messages"
            ) from error
        return "".join(pieces)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise _TemplateRefused(message)
