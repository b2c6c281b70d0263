"""Structured output through a real server: every way to ask for it, and what is refused and why."""

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.served import ServerProcess, serve_process

MINNOW = Path(__file__).parents[2] / "models" / "minnow"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 10},
        "size": {"enum": ["small", "large"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "size", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serve_process(MINNOW) as served:
        yield served


def post(server: ServerProcess, path: str = "/v1/completions", **fields: Any) -> httpx.Response:
    body: dict[str, Any] = {"max_tokens": 120, "seed": 7, **fields}
    if path == "/v1/completions":
        body.setdefault("prompt", "A person in the story is")
    else:
        body.setdefault("messages", [{"role": "user", "content": "Tell me of Anna from Paris."}])
    return httpx.post(server.url + path, json=body, timeout=60)


def texts(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [c["text"] if "text" in c else c["message"]["content"]
            for c in response.json()["choices"]]  # fmt: skip


def streamed_text(server: ServerProcess, path: str, **fields: Any) -> str:
    lines = post(server, path, stream=True, **fields).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)


def check_person(text: str) -> None:
    person = json.loads(text)
    assert list(person) == ["name", "size", "age"]
    assert len(person["name"]) <= 10
    assert person["size"] in ("small", "large")
    assert 0 <= person["age"] <= 120


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_every_choice_keeps_to_the_schema_streamed_or_not(server: ServerProcess, path: str) -> None:
    answers = texts(post(server, path, response_format=FORMAT, n=3))
    assert len(set(answers)) > 1
    for text in answers:
        check_person(text)
    assert streamed_text(server, path, response_format=FORMAT) == answers[0]


def bytes_of(name: str) -> bytes:
    """Of a token, by how log-probs name it."""
    if name.startswith("bytes:"):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    return name.encode()


def test_the_best_of_several_is_valid_and_reports_its_tokens(server: ServerProcess) -> None:
    response = post(server, response_format=FORMAT, best_of=3, logprobs=1)
    (text,) = texts(response)
    check_person(text)
    logprobs = response.json()["choices"][0]["logprobs"]
    assert b"".join(map(bytes_of, logprobs["tokens"])).decode() == text
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"])


def test_usage_counts_forced_tokens_and_logprobs_change_no_text(server: ServerProcess) -> None:
    plain = post(server, response_format=FORMAT).json()
    reported = post(server, response_format=FORMAT, logprobs=0).json()
    assert plain["choices"][0]["text"] == reported["choices"][0]["text"]
    assert plain["usage"]["completion_tokens"] == reported["usage"]["completion_tokens"]
    num_tokens = len(reported["choices"][0]["logprobs"]["tokens"])
    assert plain["usage"]["completion_tokens"] == num_tokens
    assert plain["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "[A-Z][a-z]{3}-[0-9]{2}"}},
        {"structured_outputs": {"regex": "^[A-Z][a-z]{3}-[0-9]{2}$", "choice": None}},
        {"guided_regex": "[A-Z][a-z]{3}-[0-9]{2}"},
    ],
)
def test_a_pattern_is_matched_as_a_whole(server: ServerProcess, fields: dict[str, Any]) -> None:
    (text,) = texts(post(server, **fields))
    assert re.fullmatch("[A-Z][a-z]{3}-[0-9]{2}", text)


@pytest.mark.parametrize("key", ["structured_outputs", "guided_choice"])
def test_a_choice_is_one_of_the_texts(server: ServerProcess, key: str) -> None:
    options = ["yes", "no", 'perhaps "so"', "déjà vu\n"]
    value: Any = {"choice": options} if key == "structured_outputs" else options
    for seed in range(4):
        (text,) = texts(post(server, seed=seed, **dict[str, Any]({key: value})))
        assert text in options


@pytest.mark.parametrize(
    "grammar", ['start: "a" DIGITS\nDIGITS: /[0-9]{2}/', 'root ::= "a" [0-9] [0-9]']
)
def test_a_grammar_may_be_lark_or_gbnf(server: ServerProcess, grammar: str) -> None:
    (text,) = texts(post(server, structured_outputs={"grammar": grammar}))
    assert re.fullmatch("a[0-9][0-9]", text)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
        {"structured_outputs": {"json": {"type": "object"}}},
        {"guided_json": '{"type": "object"}'},
    ],
)
def test_any_object_is_an_object(server: ServerProcess, fields: dict[str, Any]) -> None:
    response = post(server, max_tokens=40, **fields)
    (text,) = texts(response)
    assert text.startswith("{")
    if response.json()["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("neutral", [
    {"response_format": {"type": "text"}}, {"response_format": None}, {"structured_outputs": {}},
    {"structured_outputs": {"json": None}}, {"guided_json": None},
])  # fmt: skip
def test_what_asks_for_nothing_changes_nothing(
    server: ServerProcess, neutral: dict[str, Any]
) -> None:
    assert texts(post(server, max_tokens=8, **neutral)) == texts(post(server, max_tokens=8))


def test_copied_values_are_words_of_the_users_message(server: ServerProcess) -> None:
    copied = {"type": "string", "x-copy": "prompt"}
    schema = {
        "type": "object",
        "properties": {"who": copied, "where": {"anyOf": [copied, {"type": "null"}]}},
        "required": ["who", "where"],
    }
    message = 'Write of "Anna Maria" who lives in New York,\nnot far away.'
    for seed in range(6):
        (text,) = texts(
            post(
                server,
                "/v1/chat/completions",
                seed=seed,
                messages=[{"role": "user", "content": message}],
                structured_outputs={"json": schema},
            )
        )
        for value in json.loads(text).values():
            assert value is None or (value in message and value == value.strip())


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value", "json_schema"),
    ({"response_format": {"json_schema": {}}}, "response_format.type",
     "missing_required_parameter", "required"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
     "missing_required_parameter", "required"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
     "response_format.json_schema.schema", "missing_required_parameter", "required"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array",
      "items": {"properties": {"a": {"not": {}}}}}}}},
     "response_format.json_schema.schema", "invalid_schema", 'items.properties.a: .*"not"'),
    ({"guided_json": {"properties": {"a": {"type": "string", "pattern": "(?=a)b"}}}},
     "guided_json", "invalid_schema", "properties.a: .*look-around"),
    ({"guided_json": {"$ref": "http://example.com/x"}}, "guided_json", "invalid_schema", "example"),
    ({"guided_json": {"allOf": [{"type": "string"}, {"type": "null"}]}}, "guided_json",
     "invalid_schema", "guided_json"),
    ({"guided_json": "{"}, "guided_json", "invalid_schema", "JSON"),
    ({"guided_json": {"enum": ["x" * (256 << 10)]}}, "guided_json", "invalid_schema", "262144"),
    ({"guided_regex": "(a"}, "guided_regex", "invalid_schema", "unclosed"),
    ({"guided_regex": ""}, "guided_regex", "invalid_value", "empty"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_schema",
     "empty"),
    ({"guided_choice": "yes"}, "guided_choice", "invalid_value", "array"),
    ({"guided_grammar": "start: nothing"}, "guided_grammar", "invalid_schema", "nothing"),
    ({"guided_grammar": "what is this"}, "guided_grammar", "invalid_schema", "guided_grammar"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs",
     "invalid_value", "one of"),
    ({"structured_outputs": {"whitespace": 1}}, "structured_outputs", "unsupported_parameter", ""),
    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex",
     "invalid_value", "exclude"),
    ({"guided_json": {"properties": {"a": {"x-copy": "prompt"}}}, "prompt": ["a", "b"]},
     "guided_json", "invalid_schema", "single prompt"),
    ({"guided_json": {"type": "string", "x-copy": "prompt", "maxLength": 3}}, "guided_json",
     "invalid_schema", "maxLength"),
    ({"guided_json": {"type": "string", "x-copy": "prompt"}, "prompt": " \n"}, "guided_json",
     "invalid_schema", "words or signs"),
    ({"guided_json": {"type": "string", "x-copy": True}}, "guided_json", "invalid_schema", "must"),
    ({"guided_json": {"anyOf": [{"pattern": f"a{i}"} for i in range(257)]}}, "guided_json",
     "invalid_schema", "at most 256 patterns; got 257"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "code", "says"), REFUSED)
def test_what_cannot_be_kept_to_is_refused_by_name(
    server: ServerProcess, fields: dict[str, Any], param: str, code: str, says: str
) -> None:
    response = post(server, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert re.search(says, error["message"])
    assert len(error["message"]) <= 1000


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"anyOf": [schema, {"type": "array", "items": {"pattern": "a{1,90}|(b{1,90})*"}}]}
    return schema


HOSTILE: list[dict[str, Any]] = [
    {"guided_regex": "((a{0,900}){0,900}){0,900}x"},
    {"guided_regex": "(" + "|".join(f"a{i}.*b{i}.*c{i}" for i in range(3000)) + ")*"},
    {"guided_json": {"allOf": [{"pattern": f"(.*{c}){{30}}"} for c in "abcdefghijkl"]}},
    {"guided_json": {"type": "array", "minItems": 10**8, "items": nested(20)}},
    {"guided_json": {"$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}
                               for i in range(40)} | {"d40": {}}, "$ref": "#/$defs/d0"}},
    {"guided_json": {"properties": {f"k{i}": {"pattern": f"[a-z]{{1,50}}(x{i}|y)*"}
                                    for i in range(4000)}}},
    {"guided_json": {"properties": {f"k{i}": {"pattern": f"[a-z]{{1,50}}(x{i}|y)*"}
                                    for i in range(256)}}},
    {"guided_grammar": "start: " + "(" * 5000 + '"a"' + ")" * 5000},
]  # fmt: skip


def test_hostile_grammars_delay_nobody_and_end_within_their_limit(server: ServerProcess) -> None:
    """While they are compiled, health answers and another stream goes on."""
    done = threading.Event()
    waits: list[float] = []

    def watch() -> None:
        while not done.is_set():
            started = time.monotonic()
            assert httpx.get(server.url + "/livez", timeout=30).status_code == 200
            waits.append(time.monotonic() - started)
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for fields in HOSTILE:
            started = time.monotonic()
            response = post(server, max_tokens=4, **fields)
            assert time.monotonic() - started < 20, fields.keys()
            assert response.status_code in (200, 400), response.text
            if response.status_code == 400:
                assert response.json()["error"]["code"] == "invalid_schema"
    finally:
        done.set()
        watcher.join()
    assert max(waits) < 2.0
    check_person(texts(post(server, response_format=FORMAT))[0])
