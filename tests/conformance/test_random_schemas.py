"""Random schemas and patterns: whatever a model says under one, `jsonschema` and `re` agree with.

Strings, lists and integers of the schemas have bounds, but the digits of a number or a chain of
references have none: an answer that max_tokens cuts is asked for again with another seed, and each
must come to an end. `-m slow -s` prints the table of all.
"""

import asyncio
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shoal.protocol.messages import ModelSource
from shoal.protocol.params import FinishReason
from shoal.text.grammar.compile import compile_grammar
from shoal.text.grammar.spec import GrammarSpec, JsonSchema, Regex
from tests.conformance.random_schemas import random_pattern, random_schema
from tests.unit.runner.asking import Asked, make_submit, text_of

ROOT = Path(__file__).parents[2]
MODELS = {"minnow": ROOT / "models" / "minnow", "smollm2": ROOT / "models" / "smollm2.gguf"}
AT_ONCE = 32
LEAP_SECOND = r"(\d\d:\d\d):60"
MAX_TOKENS = 480
"""With the prompt all that minnow reads: the longest answers need nearly as many."""
MOST_ASKED = 8
"""So often is one answer asked for until it comes to its end; few are cut."""


@cache
def asked_of(name: str) -> Asked:
    if not MODELS[name].exists():
        pytest.skip(f"needs {name}: shoal pull {name}")
    return Asked(ModelSource(name, str(MODELS[name])))


def answers(name: str, specs: list[GrammarSpec]) -> tuple[list[str], int]:
    """The text under each spec, and how many were asked for again."""
    model = text_of(ModelSource(name, str(MODELS[name])))
    grammars = [asyncio.run(compile_grammar(spec, model)).grammar for spec in specs]
    texts: dict[int, str] = {}
    num_again = 0
    for attempt in range(MOST_ASKED):
        missing = [i for i in range(len(specs)) if i not in texts]
        num_again += len(missing) if attempt else 0
        for start in range(0, len(missing), AT_ONCE):
            part = {i: grammars[i] for i in missing[start : start + AT_ONCE]}
            texts |= complete_answers(name, part, attempt)
    assert len(texts) == len(specs), [specs[i] for i in range(len(specs)) if i not in texts]
    return [texts[i] for i in range(len(specs))], num_again


def complete_answers(name: str, grammars: dict[int, str], attempt: int) -> dict[int, str]:
    """Those that max_tokens does not cut. Every second one reports log-probabilities and so samples
    its forced tokens. The penalty keeps them from endless zeros."""
    asked = asked_of(name)
    model = text_of(ModelSource(name, str(MODELS[name])))
    asked.forget()
    tokens = asked.run(
        *(
            make_submit(model, i, grammar=grammar, max_tokens=MAX_TOKENS, temperature=1.0,
                        logprobs=0 if i % 2 else None, frequency_penalty=1.0,
                        seed=1000 * attempt + i)
            for i, grammar in grammars.items()
        )
    )  # fmt: skip
    failed = {i: end for i, end in asked.finished.items() if end.reason is FinishReason.ERROR}
    assert failed == {}
    return {
        i: model.tokenizer.decode(tokens[i])
        for i in grammars
        if asked.finished[i].reason is FinishReason.STOP
    }


def invalid_json(schemas: list[dict[str, Any]], texts: list[str]) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    for name in ("time", "date-time"):
        checker = with_leap_seconds(checker, name)
    found = []
    for schema, text in zip(schemas, texts, strict=True):
        try:
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(
                json.loads(text)
            )
        except (ValueError, jsonschema.ValidationError) as error:
            found.append(f"{text!r} for {json.dumps(schema)}: {error}"[:500])
    return found


def with_leap_seconds(checker: Any, name: str) -> Any:
    """RFC 3339's grammar has a second 60, the clock of Python has not."""
    jsonschema = pytest.importorskip("jsonschema")
    kept = jsonschema.FormatChecker(formats=())
    kept.checkers = {
        **checker.checkers,
        name: (lambda value: checker.conforms(re.sub(LEAP_SECOND, r"\1:59", str(value)), name), ()),
    }
    return kept


def report(name: str, kind: str, texts: list[str], num_again: int, invalid: list[str]) -> None:
    print(f"| {name} | {len(texts)} {kind} | {len(texts) - len(invalid)} valid | "
          f"{len(invalid)} invalid | {num_again} asked for again |")  # fmt: skip
    assert invalid == []


@pytest.mark.parametrize(("name", "num"), [
    ("minnow", 24),
    pytest.param("minnow", 300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    pytest.param("smollm2", 300, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
])  # fmt: skip
def test_answers_are_valid_under_random_schemas(name: str, num: int) -> None:
    pytest.importorskip("jsonschema")
    schemas = [random_schema(seed) for seed in range(num)]
    texts, num_again = answers(name, [JsonSchema(schema, "schema") for schema in schemas])
    report(name, "schemas", texts, num_again, invalid_json(schemas, texts))


@pytest.mark.parametrize(("name", "num"), [
    ("minnow", 24),
    pytest.param("minnow", 100, marks=pytest.mark.slow),
    pytest.param("smollm2", 100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
])  # fmt: skip
def test_answers_match_random_patterns(name: str, num: int) -> None:
    patterns = [random_pattern(seed) for seed in range(num)]
    texts, num_again = answers(name, [Regex(pattern, "regex") for pattern in patterns])
    invalid = [
        f"{text!r} for {pattern!r}"
        for pattern, text in zip(patterns, texts, strict=True)
        if not re.fullmatch(pattern, text)
    ]
    report(name, "patterns", texts, num_again, invalid)
