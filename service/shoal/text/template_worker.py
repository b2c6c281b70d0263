"""A process that compiles and renders chat templates which might do anything (`chat_template.py`).

Run as `python -m shoal.text.template_worker`. A request is a template's source and, where it is to
be rendered, its variables, the most characters of the text, and whether to mark generation blocks.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Template

from shoal.text.child import answer_requests
from shoal.text.template_language import (
    FAILURES,
    NOT_VALID,
    TemplateRefused,
    TooLongError,
    compile_template,
    render_template,
)

MAX_CPU_S = 1.0
_MAX_MEMORY = 512 << 20
_MAX_TEMPLATES = 32

_compiled = lru_cache(_MAX_TEMPLATES)(compile_template)


def answer(request: Mapping[str, Any]) -> dict[str, str]:
    """ "text", or what is wrong: "invalid", "refused" or "failed", each with a message, or
    "too_long"."""
    try:
        template = _compiled(request["source"], request.get("marks_generated", False))
    except NOT_VALID as error:
        return {"invalid": _short(error)}
    if "variables" not in request:
        return {"text": ""}
    return _rendered(template, request)


def _rendered(template: Template, request: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {"text": render_template(template, request["variables"], request["max_chars"])}
    except TemplateRefused as error:
        return {"refused": _short(error)}
    except TooLongError:
        return {"too_long": ""}
    except FAILURES as error:
        return {"failed": _short(error)}


def _short(error: Exception) -> str:
    return str(error)[:200]


if __name__ == "__main__":
    answer_requests(answer, max_memory_bytes=_MAX_MEMORY, max_cpu_s=MAX_CPU_S)
