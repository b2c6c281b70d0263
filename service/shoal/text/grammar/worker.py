"""A process that compiles grammars, so that a hostile one costs its time and memory and no more.

Run as `python -m shoal.text.grammar.worker` by `compile.py`, which ends it when it takes too long.
Imports little, so that it starts at once.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from llguidance import LLMatcher, LLParserLimits, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from shoal.protocol.grammar import PARSER_LIMITS
from shoal.text.child import answer_requests

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then",
           "else", "propertyNames", "unevaluatedItems", "unevaluatedProperties")  # fmt: skip
_MAX_MEMORY = 2 << 30
_LIMITS = LLParserLimits(**PARSER_LIMITS)


def compile_source(source: Mapping[str, Any]) -> dict[str, str]:
    """ "grammar", or "error" and where in the schema it is ("path")."""
    if "schema" in source:
        schema = source["schema"]
        grammar = json.dumps({"grammars": [{"json_schema": schema}]}, ensure_ascii=False)
        if not (error := _problem(grammar)):
            return {"grammar": grammar}
        path, error = _locate(schema, error)
        return {"error": error, "path": path}
    try:
        lark = _lark_of(source)
    except Exception as failure:  # whatever the conversion finds: it is about this grammar
        return {"error": str(failure), "path": ""}
    grammar = json.dumps({"grammars": [{"lark_grammar": lark}]}, ensure_ascii=False)
    if error := _problem(grammar):
        return {"error": error, "path": ""}
    return {"grammar": grammar}


def _lark_of(source: Mapping[str, Any]) -> str:
    """Raises what the conversion raises, for a grammar in neither format."""
    if "regex" in source:
        return f"start: /{regex_to_lark(source['regex'])}/"
    if "grammar" in source:
        return str(any_to_lark(source["grammar"]))
    return str(source["lark"])


def _problem(grammar: str) -> str:
    """Empty if there is none."""
    try:
        is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=_LIMITS)
    except BaseException as error:  # a panic of the library is no Exception
        return str(error) or type(error).__name__
    return (messages[0] if messages else "it is not valid") if is_error else ""


def _locate(schema: Mapping[str, Any], error: str) -> tuple[str, str]:
    """The innermost part that has an error by itself, and that error."""
    root = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    path, part = "", schema
    while True:
        for name, inner in _parts(part):
            whole = {**root, **inner, "x-guidance": schema["x-guidance"]}
            grammar = json.dumps({"grammars": [{"json_schema": whole}]})
            if inner and (found := _problem(grammar)):
                path, part, error = f"{path}.{name}", inner, found
                break
        else:
            return path, error


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schemas that stand directly inside a schema."""
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            yield from ((f"{key}.{n}", s) for n, s in value.items() if isinstance(s, Mapping))
        elif key in _LISTS and isinstance(value, list):
            yield from ((f"{key}.{i}", s) for i, s in enumerate(value) if isinstance(s, Mapping))
        elif key in _SINGLE and isinstance(value, Mapping):
            yield key, value


if __name__ == "__main__":
    answer_requests(compile_source, max_memory_bytes=_MAX_MEMORY)
