"""The formats that Shoal knows, and how a model's template shows which is its own."""

from collections.abc import Iterable

from shoal.text.tools.formats import JsonFormat, PythonicFormat, ToolFormat

HERMES = JsonFormat("hermes", "<tool_call>", "</tool_call>", space="\n")
"""Hermes, Qwen 2.5 and 3, SmolLM3, Granite 4 and many others; also what we ask of a model whose
template knows no tools."""
LLAMA = JsonFormat(
    "llama", arguments="parameters", other_begins=("<|python_tag|>",), parallel=False
)
MISTRAL = JsonFormat("mistral", "[TOOL_CALLS]", is_list=True, id_length=9)
GRANITE = JsonFormat("granite", "<|tool_call|>", is_list=True)
LFM2 = PythonicFormat("lfm2", "<|tool_call_start|>", "<|tool_call_end|>")
LFM2_JSON = JsonFormat("lfm2_json", "<|tool_call_start|>", "<|tool_call_end|>", is_list=True)
PYTHONIC = PythonicFormat("pythonic", other_begins=("<|python_start|>",))

FORMATS: tuple[ToolFormat, ...] = (HERMES, LLAMA, MISTRAL, GRANITE, LFM2, LFM2_JSON, PYTHONIC)

_SHOWN_BY: tuple[tuple[tuple[str, ...], ToolFormat], ...] = (
    (("[TOOL_CALLS]",), MISTRAL),
    (("<|tool_call_start|>", '"arguments": '), LFM2_JSON),
    (("<|tool_call_start|>",), LFM2),
    (("<|tool_call|>",), GRANITE),
    (("[func_name1(",), PYTHONIC),
    (("<tool_call>",), HERMES),
    (('"parameters": ', '"name": ', "ipython"), LLAMA),
)
"""All of these texts show that format; the first in order that is shown counts."""
_OTHERS = ("[ARGS]", "<function=", "<tool_calls>", "<arg_key>", "<parameter")
"""Texts of templates whose formats Shoal does not know, beside some of the above."""


def format_of(template: str, added_tokens: Iterable[str]) -> ToolFormat | None:
    """The format of a model whose template writes tools; None: none that is known. The template
    counts first: vocabularies also have tokens that a model was never taught."""
    if any(text in template for text in _OTHERS):
        return None
    for evidence in (template, "\0".join(added_tokens)):
        for texts, tool_format in _SHOWN_BY:
            if all(text in evidence for text in texts):
                return tool_format
    return None
