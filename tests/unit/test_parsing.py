"""JSON of bodies: exact, and counted before it is parsed. Schemas stop at the first problems."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

import shoal.server.app  # noqa: F401  # defines every schema
from shoal.errors import InvalidRequest
from shoal.server import parsing
from shoal.server.parsing import MAX_CONTAINERS, MAX_STRINGS, parse_object, parse_value

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', "\\", '\\"', "{}[]:,", '": "', "\\\\", "1" * 30, "null"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXTS
    | st.floats(-1e15, 1e15),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
PADDING = [0, MAX_CONTAINERS + 1]
"""Spaces: longer bodies are counted first."""


@given(VALUES, st.sampled_from(PADDING), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_valid_is_read_as_it_is(value: Any, padding: int, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only) + " " * padding
    assert parse_value(text.encode()) == value


@given(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=4), st.data())
@settings(max_examples=40, deadline=None)
def test_a_field_named_twice_is_found_wherever_it_is(body: dict[str, Any], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(body)))
    doubled = json.dumps(body)[:-1] + f", {json.dumps(name)}: 1}}"
    padding = " " * data.draw(st.sampled_from(PADDING))
    for text in (doubled, f'{{"a": [1, "x", {doubled}]}}', f'[{{"b": {doubled}}}, 2]'):
        with pytest.raises(InvalidRequest, match="names a field twice"):
            parse_value((text + padding).encode())


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**25, -(10**40)])
def test_integers_of_more_than_64_bits_are_refused_where_they_stand(number: int) -> None:
    for body, param in (
        ({"a": 1, "seed": number}, "seed"),
        ({"options": {"x": [1], "seed": number}}, "options.seed"),
        ({"a": [{"b": number}]}, "a"),
    ):
        with pytest.raises(InvalidRequest, match="64 bits") as caught:
            parse_object(json.dumps(body).encode())
        assert caught.value.param == param
    text = f'{{"a": "{number}", "b": {number}.5, "c": {number}e0, "d": 0.{abs(number)}}}'
    assert parse_object(text.encode())["a"] == str(number)


@pytest.mark.parametrize(
    ("part", "limit", "what"),
    [("[]", MAX_CONTAINERS, "arrays and objects"), ('""', MAX_STRINGS, "strings")],
)
def test_parts_are_counted_before_they_are_parsed(
    part: str, limit: int, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = "[" + ",".join([part] * (limit - 1)) + "]"
    assert len(parse_value(fits.encode())) == limit - 1
    monkeypatch.setattr(parsing, "orjson", None)  # nobody may call it
    with pytest.raises(InvalidRequest, match=f"more than {limit} {what}"):
        parse_value(("[" + ",".join([part] * (limit + 1)) + "]").encode())


def test_brackets_and_quotes_in_texts_are_not_counted() -> None:
    text = '[]{}\\"' * MAX_STRINGS
    assert parse_object(json.dumps({"prompt": text}).encode()) == {"prompt": text}


# --- schemas -------------------------------------------------------------------------------------


def schemas(base: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    """Every schema of a request."""
    for schema in base.__subclasses__():
        if schema.__module__.startswith("shoal.server.api."):
            yield schema
        yield from schemas(schema)


def unbounded(node: Any, path: str = "") -> Iterator[str]:
    """Arrays and objects whose every item is checked however many are wrong."""
    if isinstance(node, list | tuple):
        for item in node:
            yield from unbounded(item, path)
    if not isinstance(node, dict):
        return
    kind, items = node.get("type"), node.get("items_schema") or node.get("values_schema")
    is_bounded = node.get("fail_fast") or (kind == "list" and node.get("max_length"))
    if kind in ("list", "dict") and items["type"] != "any" and not is_bounded:
        yield path
    for name, inner in node.items():
        if name == "fields" and isinstance(inner, dict):
            for field_name, field in inner.items():
                yield from unbounded(field, f"{path}.{field_name}")
        elif name not in ("metadata", "serialization", "json_schema_input_schema"):
            yield from unbounded(inner, path)


COUNTED = {".logit_bias", ".metadata"}
"""Objects whose validator counts first."""


def test_no_schema_collects_problems_without_end() -> None:
    found = set(schemas())
    assert len(found) > 20
    for schema in found:
        assert set(unbounded(schema.__pydantic_core_schema__)) <= COUNTED, schema
