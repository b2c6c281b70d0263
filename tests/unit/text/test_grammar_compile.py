"""Specs to grammars: what is checked before any work, how tags are written, what copies may hold,
and a worker that takes too long."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import InvalidRequest
from shoal.sampling.copy_matcher import CopyMatcher
from shoal.sampling.grammars import Grammars, Vocabulary
from shoal.text.grammar import compile as compile_module
from shoal.text.grammar.compile import compile_grammar
from shoal.text.grammar.copying import copy_rules
from shoal.text.grammar.errors import SchemaProblem
from shoal.text.grammar.source import compact, grammar_source
from shoal.text.grammar.spec import (
    Choice,
    GrammarSpec,
    JsonSchema,
    Lark,
    Regex,
    Tag,
    Tagged,
)
from shoal.text.workers import WorkerEnded, Workers
from tests.unit.text.building import byte_level, text_model

COPY = {"type": "string", "x-copy": "prompt"}


def compiled(spec: GrammarSpec, folder: Path, copy_text: str | None = None) -> str:
    return asyncio.run(compile_grammar(spec, text_model(byte_level(folder)), copy_text)).grammar


def refusal(spec: GrammarSpec, folder: Path, copy_text: str | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        compiled(spec, folder, copy_text)
    assert caught.value.code == "invalid_schema"
    assert caught.value.param == spec.param
    return caught.value


def lark_of(spec: GrammarSpec, special: dict[str, int] | None = None) -> str:
    return str(grammar_source(spec, (special or {}).get)["lark"])


def test_only_anchors_around_a_pattern_are_left_out() -> None:
    for pattern, wanted in {
        "^ab$": "ab", "ab\\$": "ab\\$", "ab\\\\$": "ab\\\\", "a^b": "a^b", "": "", "$": "",
    }.items():  # fmt: skip
        assert grammar_source(Regex(pattern, "p"), lambda _: None) == {"regex": wanted}


def test_tags_begin_at_their_trigger_and_special_tokens_stand_by_id() -> None:
    tags = (Tag("<call>f(", {"type": "object"}, ")"), Tag("<call>g(", True))
    lark = lark_of(Tagged(tags, ("<call>",), "tools"))
    assert 'head_0[lazy]: TEXT "<call>"' in lark
    assert re.search(r'tag_0: head_0 "f\(" %json \{.*\} "\)"', lark)
    assert "start: (tag_0 | tag_1)* TEXT" in lark
    special = lark_of(Tagged(tags, ("<call>",), "tools", parallel=False), {"<call>": 7})
    assert "tag_1: TEXT <[7]>" in special
    assert "start: (tag_0 | tag_1)? TEXT" in special
    bare = Tagged(tags, ("<call>",), "tools", free_text=False, separator=";")
    assert 'start: (tag_0 | tag_1) (";" (tag_0 | tag_1))*' in lark_of(bare)


def test_every_kind_of_tags_compiles(tmp_path: Path) -> None:
    tags = (Tag("<call>f(", {"type": "object"}, ")"), Tag("<call>g(", {"enum": [1]}))
    for options in (
        {}, {"at_least_one": True}, {"parallel": False}, {"free_text": False},
        {"free_text": False, "separator": "\n"}, {"free_text": False, "parallel": False},
        {"at_least_one": True, "parallel": False},
    ):  # fmt: skip
        spec = Tagged(tags, ("<call>",), "tools", **options)
        assert "lark_grammar" in compiled(spec, tmp_path)


def test_what_is_too_large_or_empty_is_refused_before_any_work(tmp_path: Path) -> None:
    large = "x" * (256 << 10)
    assert "262144" in refusal(JsonSchema({"const": large}, "a.schema"), tmp_path).message
    refusal(Regex(large + "x", "guided_regex"), tmp_path)
    refusal(Lark(large + "x", "guided_grammar"), tmp_path)
    refusal(Choice((), "guided_choice"), tmp_path)
    refusal(Choice(("a", ""), "guided_choice"), tmp_path)
    copied = Tagged((Tag("<", {"properties": {"a": COPY}}),), ("<",), "tools")
    assert "x-copy" in refusal(copied, tmp_path).message


def test_an_error_names_the_place_in_the_schema(tmp_path: Path) -> None:
    schema = {
        "$defs": {"d": {"type": "string", "pattern": "(?=a)"}},
        "properties": {"list": {"items": {"$ref": "#/$defs/d"}}},
    }
    assert "$defs.d: " in refusal(JsonSchema(schema, "p"), tmp_path).message


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"a": {**COPY, "pattern": "b"}}}, "a.*pattern"),
        ({"properties": {"a": {**COPY, "type": "integer"}}}, "string"),
        ({"properties": {"a": {"x-copy": "reply"}}}, '"prompt"'),
        ({"properties": {"a": COPY}, "additionalProperties": True}, "only the properties"),
        ({"properties": {"a": COPY}, "required": ["b"]}, "only the properties"),
        ({"allOf": [COPY]}, "cannot stand"),
        ({"type": "array", "items": COPY, "minItems": 3, "maxItems": 2}, "items"),
        ({"propertyNames": {"pattern": "a"}, "additionalProperties": COPY}, "propertyNames"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"},
                                                              "c": COPY}}}}, "reference"),
        ({"properties": {"a": COPY}, "x-other": 1}, "x-other"),
    ],
)  # fmt: skip
def test_where_a_copy_cannot_stand_is_said(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SchemaProblem) as caught:
        copy_rules(schema, compact)
    assert re.search(says, f"{caught.value.path} {caught.value.message}")


def follower(grammar: str, text: str) -> Callable[[str], bool]:
    """Does the grammar hold an answer that copies from this text?"""
    pytest.importorskip("llguidance")
    tokens = [bytes([byte]) for byte in range(256)]
    grammars = Grammars(lambda: Vocabulary(tokens, [], lambda text: list(text.encode())))
    assert grammars.prepare(grammar, text).result() is None

    def accepts(answer: str) -> bool:
        matcher = CopyMatcher(grammars.memory(grammar, None).beginning, grammars.copy_text(text))
        return all(map(matcher.consume_token, answer.encode())) and matcher.is_stopped()

    return accepts


def test_optional_members_may_be_left_out_in_any_combination(tmp_path: Path) -> None:
    members = {"a": COPY, "b": {"const": 1}, "c": {"const": 2}}
    schema = {"type": "object", "properties": members, "required": ["b"]}
    copied = 'say "hi there", Bob\n'
    accepts = follower(compiled(JsonSchema(schema, "p"), tmp_path, copied), copied)
    for text in ('{"b":1}', '{"b":1,"c":2}', '{"a":"hi there","b":1}', '{"a":"Bob","b":1,"c":2}',
                 json.dumps({"a": 'say "hi', "b": 1}, separators=(",", ":"))):  # fmt: skip
        assert accepts(text), text
    for text in ("{}", '{"c":2}', '{"a":"hi","b":1,}', '{"a":"here","b":1}', '{"a":"","b":1}',
                 '{"a":" there","b":1}', '{"a":"hi  there","b":1}',
                 '{"b":1,"a":"hi"}'):  # fmt: skip
        assert not accepts(text), text


def test_members_in_any_order_may_have_values_of_their_own(tmp_path: Path) -> None:
    listed = {"type": "array", "items": COPY, "minItems": 2}
    schema = {
        "type": "object",
        "propertyNames": {"enum": ["a", "b", "kind"]},
        "properties": {"b": {"anyOf": [COPY, listed]}, "kind": {"const": 'a "k"'}},
        "additionalProperties": COPY,
    }
    copied = "red and blue"
    accepts = follower(compiled(JsonSchema(schema, "p"), tmp_path, copied), copied)
    for text, is_right in {
        '{"b":["red","blue"],"a":"and"}': True, '{"a":"red","b":"blue"}': True, "{}": True,
        '{"kind":"a \\"k\\"","a":"red and"}': True, '{"a":["red","blue"]}': False,
        '{"kind":"red"}': False, '{"c":"red"}': False, '{"b":"green"}': False,
    }.items():  # fmt: skip
        assert accepts(text) == is_right, text


@pytest.mark.parametrize(("fewest", "most"), [(0, 1), (1, 1), (0, 2), (2, 2), (1, None)])
def test_lists_and_maps_have_as_many_copies_as_they_may(
    tmp_path: Path, fewest: int, most: int | None
) -> None:
    bound = {} if most is None else {"maxItems": most}
    listed = {"type": "array", "items": COPY, "minItems": fewest, **bound}
    accepts = follower(compiled(JsonSchema(listed, "p"), tmp_path, "red"), "red")
    for size in range(4):
        is_right = fewest <= size <= (most or size)
        assert accepts(json.dumps(["red"] * size, separators=(",", ":"))) == is_right
    names = {"type": "object", "propertyNames": {"enum": ["a", "b", "c"]}}
    bound = {} if most is None else {"maxProperties": most}
    mapped = {**names, "additionalProperties": COPY, **bound}
    accepts = follower(compiled(JsonSchema(mapped, "p"), tmp_path, "red"), "red")
    for size in range(4):
        answer = json.dumps(dict.fromkeys("abc"[:size], "red"), separators=(",", ":"))
        assert accepts(answer) == (size <= (most or size))


def test_another_text_to_copy_from_is_the_same_grammar(tmp_path: Path) -> None:
    model = text_model(byte_level(tmp_path))
    spec = JsonSchema({"type": "object", "properties": {"one of its own": COPY}}, "p")
    texts = ["red and blue", 'say "hi"\n', "word " * 9000]
    found = [asyncio.run(compile_grammar(spec, model, text)) for text in texts]
    assert [each.copy_text for each in found] == texts
    assert len({each.grammar for each in found}) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "single prompt"), ("", "words or signs"), (" \n\u00a0", "words or signs"),
        ("a " * 20_001, "has 40002 words, signs and spaces"),
    ],
)  # fmt: skip
def test_a_text_that_cannot_be_copied_from_is_refused(
    tmp_path: Path, text: str | None, says: str
) -> None:
    spec = JsonSchema({"type": "object", "properties": {"a": COPY}}, "p")
    assert says in refusal(spec, tmp_path, text).message


def test_a_schema_seen_before_is_not_walked_sent_to_a_worker_or_handed_to_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: Counter[str] = Counter()

    def watch(name: str) -> None:
        work = getattr(compile_module, name)

        def counted(*args: Any) -> Any:
            counts[name] += 1
            return work(*args)

        monkeypatch.setattr(compile_module, name, counted)

    for name in ("_count_patterns", "has_copies", "_beside", "_ask"):
        watch(name)
    plain = {"type": "object", "properties": {"a test of its own": {"enum": [1, 2]}}}
    specs: list[GrammarSpec] = [
        JsonSchema(plain, "p"), JsonSchema({"properties": {"its own": COPY}}, "p"),
        Regex("its own [a-c]+", "p"), Choice(("its", "own"), "p"), Lark('start: "its own"', "p"),
    ]  # fmt: skip
    first = [compiled(spec, tmp_path, "red and blue") for spec in specs]
    assert counts == {"_count_patterns": 2, "has_copies": 2, "_beside": 5, "_ask": 5}
    again = [replace(spec, param="other") for spec in specs]
    assert [compiled(spec, tmp_path, "red and blue") for spec in again] == first
    assert counts["_count_patterns"] == counts["has_copies"] == 2
    assert counts["_beside"] == 5
    for each in (compile_module._facts, compile_module._answers, compile_module._copy_grammars):
        each.clear()
    assert [compiled(spec, tmp_path, "red and blue") for spec in specs] == first
    assert counts["_beside"] == 10


def test_schemas_that_differ_in_the_order_of_their_keys_are_two(tmp_path: Path) -> None:
    """So are values that Python calls equal."""
    for one, other in (
        ({"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}}),
        ({"properties": {"a": COPY, "b": {}}}, {"properties": {"b": {}, "a": COPY}}),
        ({"enum": [1]}, {"enum": [True]}),
    ):
        found = [compiled(JsonSchema(schema, "p"), tmp_path, "red") for schema in (one, other) * 2]
        assert found[0] != found[1]
        assert found[2:] == found[:2]


def test_a_refusal_is_the_same_when_it_is_known(tmp_path: Path) -> None:
    for schema in ({"pattern": "(?=a)"}, {"allOf": [COPY]}, {"properties": {"a": {"not": {}}}}):
        said = [refusal(JsonSchema(schema, "p"), tmp_path, "red").message for _ in range(2)]
        assert said[0] == said[1]


def test_a_worker_that_says_nothing_in_time_is_ended_and_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In place of the real one: it answers, sleeps for ever, or ends."""
    code = (
        "import sys, time\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    if 'sleep' in line: time.sleep(60)\n"
        "    if 'end' in line: sys.exit()\n"
        '    print(\'{"grammar": "g"}\', flush=True)\n'
    )
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(real([sys.executable, "-c", code], **options))
        return started[-1]

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    pool = Workers("a.module", 1, 1.0)
    assert pool.ask('"one"') == {"grammar": "g"}
    begun = time.monotonic()
    with pytest.raises(WorkerEnded, match="too long"):
        pool.ask('"sleep"')
    assert time.monotonic() - begun < 20
    assert started[0].poll() is not None, "it still runs"
    assert pool.ask('"two"') == {"grammar": "g"}
    with pytest.raises(WorkerEnded, match="too much memory"):
        pool.ask('"end"')
    assert pool.ask('"three"') == {"grammar": "g"}
    assert len(started) == 3
    started[2].kill()
    started[2].wait()
    assert pool.ask('"four"') == {"grammar": "g"}, "its end is no fault of the next request"
    started[3].kill()
    started[3].communicate()
