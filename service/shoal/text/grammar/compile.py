"""Specs to grammars: checked within limits of size and time, beside the event loop."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from shoal.errors import InvalidRequest, Unavailable
from shoal.text.grammar.copying import copy_rules, copy_terminals, has_copies
from shoal.text.grammar.errors import SchemaProblem
from shoal.text.grammar.source import compact, grammar_source, lark_grammar
from shoal.text.grammar.spec import (
    Choice,
    GrammarSpec,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    Schema,
    Tagged,
)
from shoal.text.text_model import TextModel
from shoal.text.workers import WorkerEnded, Workers

MAX_BYTES = 256 << 10
"""Of a schema, pattern, list of choices or grammar."""
MAX_PATTERNS = 256
"""Of one schema: an engine follows all of them at once, so its work grows with their number."""
MAX_SECONDS = 2.0
MAX_DEPTH = 64
_NUM_WORKERS = 2
_CACHED = 64
_MAX_WAITING = 64
_SHORT_TEXT = 500
"""Characters of a text to copy from."""

_threads = ThreadPoolExecutor(max_workers=_NUM_WORKERS, thread_name_prefix="grammar")
_workers = Workers("shoal.text.grammar.worker", _NUM_WORKERS, MAX_SECONDS)
_cache: OrderedDict[str, dict[str, str]] = OrderedDict()
_copy_rules: OrderedDict[str, str] = OrderedDict()
"""[schema with copies] its rules, which a worker found right with some text."""
_num_waiting = 0


async def compile_grammar(spec: GrammarSpec, model: TextModel, copy_text: str | None = None) -> str:
    """The grammar's text, for `SamplingParams.grammar`. `copy_text`: the words that a string with
    "x-copy" may come from. Raises InvalidRequest with code invalid_schema."""
    check_size(spec)
    try:
        return await _compiled(spec, model, copy_text)
    except SchemaProblem as problem:
        where = f" at {problem.path.lstrip('.')}" if problem.path else ""
        raise InvalidRequest(
            " ".join(f"{spec.param} cannot be used{where}: {problem.message}".split())[:900],
            code="invalid_schema",
            param=spec.param,
        ) from None


async def _compiled(spec: GrammarSpec, model: TextModel, copy_text: str | None) -> str:
    """Raises SchemaProblem; Unavailable while too many grammars wait."""
    global _num_waiting
    if _num_waiting >= _MAX_WAITING:
        raise Unavailable("too many grammars are being compiled", retry_after_s=MAX_SECONDS)
    _num_waiting += 1
    try:
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(_threads, _compile, spec, model, copy_text)
    finally:
        _num_waiting -= 1
    if "error" in answer:
        raise SchemaProblem(answer["error"], answer["path"])
    return answer["grammar"]


def _compile(spec: GrammarSpec, model: TextModel, copy_text: str | None) -> dict[str, str]:
    """In a thread: the caches need no lock, each operation on them is one of the interpreter's."""
    if isinstance(spec, JsonSchema) and copy_text is not None and has_copies(spec.schema):
        return _compile_copies(spec.schema, copy_text)
    source = grammar_source(spec, lambda name: _special_id(model, name), copy_text)
    return _ask(source)


def _compile_copies(schema: Schema, text: str) -> dict[str, str]:
    """A worker looks at a schema once: another short text needs no more of its limits."""
    key = json.dumps(schema)
    if len(text) <= _SHORT_TEXT and (rules := _copy_rules.get(key)) is not None:
        return {"grammar": lark_grammar(f"{rules}\n{copy_terminals(text)}")}
    rules = copy_rules(schema, compact)
    answer = _ask({"lark": f"{rules}\n{copy_terminals(text)}"})
    if "grammar" in answer:
        _copy_rules[key] = rules
        while len(_copy_rules) > _CACHED:
            _copy_rules.popitem(last=False)
    return answer


def _ask(source: Mapping[str, Any]) -> dict[str, str]:
    line = json.dumps(source)
    if (answer := _cache.get(line)) is None:
        try:
            answer = _workers.ask(line)
        except WorkerEnded as end:  # not remembered: another time it may be quick enough
            took = f"more than {MAX_SECONDS:g} s" if end.took_too_long else "too much memory"
            return {"error": f"compiling it takes {took}: make it simpler", "path": ""}
        _cache[line] = answer
        while len(_cache) > _CACHED:
            _cache.popitem(last=False)
    return answer


def _special_id(model: TextModel, name: str) -> int | None:
    """None for what is plain text to the model."""
    token_id = model.tokenizer.special_id(name)
    return token_id if token_id in model.tokenizer.special_ids else None


def check_size(spec: GrammarSpec) -> None:
    """Before any other work is done. Raises InvalidRequest."""
    problem = None
    match spec:
        case JsonObject():
            size = 0
        case JsonSchema(schema):
            size = _json_bytes(schema)
            if size <= MAX_BYTES and (num_patterns := _count_patterns(schema)) > MAX_PATTERNS:
                problem = f"may have at most {MAX_PATTERNS} patterns; got {num_patterns}"
        case Regex(text) | Lark(text):
            size = len(text.encode())
        case Choice(options):
            size = sum(len(option.encode()) for option in options)
            problem = None if options and all(options) else "needs texts that are not empty"
        case Tagged(tags):
            size = _json_bytes([tag.schema for tag in tags])
            if any(has_copies(tag.schema) for tag in tags):
                problem = "cannot have x-copy in a schema of a tool"
    if size > MAX_BYTES:
        problem = f"may have at most {MAX_BYTES} bytes; got {size}"
    if problem is not None:
        raise InvalidRequest(f"{spec.param} {problem}", code="invalid_schema", param=spec.param)


def _json_bytes(value: Any) -> int:
    return len(msgspec.json.encode(value))


def _count_patterns(schema: object) -> int:
    """How often a pattern or format occurs anywhere in it."""
    count, stack = 0, [schema]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            count += sum(isinstance(part.get(key), str) for key in ("pattern", "format"))
            named = part.get("patternProperties")
            count += len(named) if isinstance(named, dict) else 0
            stack += part.values()
        elif isinstance(part, list):
            stack += part
    return count
