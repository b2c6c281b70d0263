"""Random schemas and patterns: whatever a model says under one, `jsonschema` and `re` agree with.

An answer that max_tokens cuts is no answer and is counted apart; there are few, since all has
bounds. `-m slow -s` prints the table of all.
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
MAX_TOKENS = 400
MOST_CUT = 0.15
"""Of the answers, by max_tokens."""


@cache
def asked_of(name: str) -> Asked:
    if not MODELS[name].exists():
        pytest.skip(f"needs {name}: shoal pull {name}")
    return Asked(ModelSource(name, str(MODELS[name])))


def answers(name: str, specs: list[GrammarSpec]) -> list[str | None]:
    """The text under each spec; None where it was cut. Every second one reports log-probabilities
    and so samples its forced tokens. The penalty keeps them from endless zeros."""
    asked = asked_of(name)
    model = text_of(ModelSource(name, str(MODELS[name])))
    texts: list[str | None] = []
    for start in range(0, len(specs), AT_ONCE):
        part = specs[start : start + AT_ONCE]
        grammars = [asyncio.run(compile_grammar(spec, model)) for spec in part]
        asked.forget()
        tokens = asked.run(
            *(
                make_submit(model, i, grammar=grammar, max_tokens=MAX_TOKENS, temperature=1.0,
                            logprobs=0 if i % 2 else None, frequency_penalty=1.0)
                for i, grammar in enumerate(grammars)
            )
        )  # fmt: skip
        for i in range(len(part)):
            finished = asked.finished[i]
            assert finished.reason is not FinishReason.ERROR, (part[i], finished)
            ended = finished.reason is FinishReason.STOP
            texts.append(model.tokenizer.decode(tokens[i]) if ended else None)
    return texts


def invalid_json(schemas: list[dict[str, Any]], texts: list[str | None]) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    found = []
    for schema, text in zip(schemas, texts, strict=True):
        if text is None:
            continue
        try:
            jsonschema.Draft202012Validator(schema, format_checker=checker).validate(
                json.loads(text)
            )
        except (ValueError, jsonschema.ValidationError) as error:
            found.append(f"{text!r} for {json.dumps(schema)}: {error}"[:500])
    return found


def report(name: str, kind: str, texts: list[str | None], invalid: list[str]) -> None:
    num_cut = texts.count(None)
    num_valid = len(texts) - num_cut - len(invalid)
    print(f"| {name} | {len(texts)} {kind} | {num_valid} valid | {num_cut} cut | "
          f"{len(invalid)} invalid |")  # fmt: skip
    assert invalid == []
    assert num_cut <= MOST_CUT * len(texts)


@pytest.mark.parametrize(("name", "num"), [
    ("minnow", 24),
    pytest.param("minnow", 300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    pytest.param("smollm2", 300, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
])  # fmt: skip
def test_answers_are_valid_under_random_schemas(name: str, num: int) -> None:
    pytest.importorskip("jsonschema")
    schemas = [random_schema(seed) for seed in range(num)]
    texts = answers(name, [JsonSchema(schema, "schema") for schema in schemas])
    report(name, "schemas", texts, invalid_json(schemas, texts))


@pytest.mark.parametrize(("name", "num"), [
    ("minnow", 24),
    pytest.param("minnow", 100, marks=pytest.mark.slow),
    pytest.param("smollm2", 100, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
])  # fmt: skip
def test_answers_match_random_patterns(name: str, num: int) -> None:
    patterns = [random_pattern(seed) for seed in range(num)]
    texts = answers(name, [Regex(pattern, "regex") for pattern in patterns])
    invalid = [
        f"{text!r} for {pattern!r}"
        for pattern, text in zip(patterns, texts, strict=True)
        if text is not None and not re.fullmatch(pattern, text)
    ]
    report(name, "patterns", texts, invalid)
