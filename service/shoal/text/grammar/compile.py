"""Specs to grammars: checked within limits of size and time, beside the event loop.

A spec that was checked before costs its encoding as JSON, by which it is known, and one look into a
cache. What is kept depends on the spec's own text alone, and on nothing of who sent it.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import msgspec

from shoal.errors import InvalidRequest, Unavailable
from shoal.text.grammar.copying import check_copy_text, copy_rules, has_copies
from shoal.text.grammar.errors import SchemaProblem
from shoal.text.grammar.source import compact, grammar_source
from shoal.text.grammar.spec import (
    Choice,
    GrammarSpec,
    JsonObject,
    JsonSchema,
    Lark,
    Regex,
    Tagged,
)
from shoal.text.recent import Recent
from shoal.text.text_model import TextModel
from shoal.text.workers import WorkerEnded, Workers

MAX_BYTES = 256 << 10
"""Of a schema, pattern, list of choices or grammar."""
MAX_PATTERNS = 256
"""Of one schema: an engine follows all of them at once, so its work grows with their number."""
MAX_SECONDS = 2.0
MAX_DEPTH = 64
_NUM_WORKERS = 2
_MAX_WAITING = 64
_MAX_KEPT = 256
_MAX_KEPT_BYTES = 8 << 20


class Compiled(NamedTuple):
    """For SamplingParams."""

    grammar: str
    copy_text: str | None = None


class _Facts(NamedTuple):
    """Of a schema; finding them takes a walk through all of it."""

    num_patterns: int
    has_copies: bool


Found = TypeVar("Found")

_threads = ThreadPoolExecutor(max_workers=_NUM_WORKERS, thread_name_prefix="grammar")
_workers = Workers("shoal.text.grammar.worker", _NUM_WORKERS, MAX_SECONDS)
_facts: Recent[_Facts] = Recent(_MAX_KEPT, _MAX_KEPT_BYTES)
"""[schema as JSON]"""
_answers: Recent[dict[str, str]] = Recent(_MAX_KEPT, _MAX_KEPT_BYTES)
"""[question to a worker] what it said"""
_copy_grammars: Recent[str] = Recent(_MAX_KEPT, _MAX_KEPT_BYTES)
"""[schema with copies, as JSON] its grammar"""
_num_waiting = 0


async def compile_grammar(
    spec: GrammarSpec, model: TextModel, copy_text: str | None = None
) -> Compiled:
    """`copy_text`: the words that a string with "x-copy" may come from. Raises InvalidRequest with
    code invalid_schema, Unavailable while too many grammars wait."""
    check_size(spec)
    try:
        if isinstance(spec, JsonSchema) and is_copying(spec):
            check_copy_text(copy_text)
            if (grammar := _copy_grammars.get(spec.text)) is None:
                grammar = await _beside(lambda: _compile_copies(spec))
            return Compiled(grammar, copy_text)
        source = grammar_source(spec, lambda name: _special_id(model, name))
        question = _question(source)
        if (answer := _answers.get(question)) is None:
            answer = await _beside(lambda: _ask(question))
        return Compiled(_grammar(answer))
    except SchemaProblem as problem:
        where = f" at {problem.path.lstrip('.')}" if problem.path else ""
        raise InvalidRequest(
            " ".join(f"{spec.param} cannot be used{where}: {problem.message}".split())[:900],
            code="invalid_schema",
            param=spec.param,
        ) from None


def is_copying(spec: JsonSchema) -> bool:
    """Is any of its strings a copy?"""
    return _facts_of(spec).has_copies


def _compile_copies(spec: JsonSchema) -> str:
    """In a thread. Raises SchemaProblem."""
    assert isinstance(spec.schema, Mapping), "true and false have no copies"
    rules = copy_rules(spec.schema, compact)
    grammar = _grammar(_ask(_question({"lark": rules})))
    _copy_grammars.put(spec.text, grammar, len(spec.text) + len(grammar))
    return grammar


async def _beside(work: Callable[[], Found]) -> Found:
    """Does it in a thread. Raises Unavailable while too many wait."""
    global _num_waiting
    if _num_waiting >= _MAX_WAITING:
        raise Unavailable("too many grammars are being compiled", retry_after_s=MAX_SECONDS)
    _num_waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, work)
    finally:
        _num_waiting -= 1


def _question(source: dict[str, Any]) -> str:
    """To a worker: one line."""
    return msgspec.json.encode(source).decode()


def _grammar(answer: dict[str, str]) -> str:
    """Raises SchemaProblem."""
    if "error" in answer:
        raise SchemaProblem(answer["error"], answer["path"])
    return answer["grammar"]


def _ask(question: str) -> dict[str, str]:
    """In a thread."""
    if (answer := _answers.get(question)) is None:
        try:
            answer = _workers.ask(question)
        except WorkerEnded as end:  # not remembered: another time it may be quick enough
            took = f"more than {MAX_SECONDS:g} s" if end.took_too_long else "too much memory"
            return {"error": f"compiling it takes {took}: make it simpler", "path": ""}
        _answers.put(question, answer, len(question) + sum(map(len, answer.values())))
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
        case JsonSchema():
            size = len(spec.text)
            if size <= MAX_BYTES and (num_patterns := _facts_of(spec).num_patterns) > MAX_PATTERNS:
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


def _facts_of(spec: JsonSchema) -> _Facts:
    if (facts := _facts.get(spec.text)) is None:
        facts = _Facts(_count_patterns(spec.schema), has_copies(spec.schema))
        _facts.put(spec.text, facts, len(spec.text))
    return facts


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
