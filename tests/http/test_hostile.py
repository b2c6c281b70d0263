"""Bodies made to break: each is a 4xx in the documented shape; a neighbour's stream goes on."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_app import serve
from tests.http.building import AsgiCall, Gate, error_of, nothing_left, refused, serve_script

GENERATION = ("/v1/completions", "/v1/chat/completions")
POST_ROUTES = (*GENERATION, "/tokenize", "/v1/tokenize", "/detokenize", "/v1/detokenize")
JSON = {"content-type": "application/json"}
FINE: dict[str, Any] = {
    "prompt": "x", "messages": [{"role": "user", "content": "x"}], "tokens": [1],
}  # fmt: skip


def with_field(name: str, raw: str) -> bytes:
    """A good body for every route with one more field, written by hand."""
    return json.dumps(FINE)[:-1].encode() + f', "{name}": {raw}}}'.encode()


async def test_colons_in_texts_are_no_fields(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        for prompt in ('{"a": 1, "a": 2}', 'say ":" \\" :', "::::", '\\":\\'):
            assert (await served.complete(prompt)).status_code == 200
        mixed = [1, {"a": 1}, "x", {"b": [2, {"c": 3}]}]
        assert (await served.complete("x", zoo=mixed)).status_code == 200


HOSTILE_FIELDS = [
    (name, raw)
    for name in ("temperature", "top_p", "n", "max_tokens", "top_k", "seed", "min_p", "priority",
                 "presence_penalty", "repetition_penalty", "min_tokens", "max_time", "logit_bias")
    for raw in ('"nan"', '"inf"', "[]" if name != "logit_bias" else "[1]", "true")
] + [
    ("temperature", "1e300"), ("n", "1000000000"), ("n", "1000000000000"), ("max_tokens", "1e18"),
    ("seed", "9" * 300), ("seed", "1" * 5000), ("min_tokens", "18446744073709551615"),
    ("priority", "-9223372036854775808"), ("logit_bias", '{"1": 1e308}'),
    ("logit_bias", '{"-1": 0}'), ("logit_bias", '{"1e3": 0}'), ("logit_bias", '{"\\u0661": 0}'),
    ("stop", '["' + "x" * 2000 + '"]'), ("model", '"../../etc/passwd"'), ("model", '"%2e%2e/"'),
    ("model", '"\\u0000"'), ("model", '"' + "m" * 100_000 + '"'), ("model", "[]"), ("user", "{}"),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_hostile_fields_are_4xx_while_a_neighbour_is_undisturbed(
    tmp_path: Path, stream: bool
) -> None:
    async with serve_script(tmp_path, "a" * 300) as (served, _):
        gate = Gate(served)
        neighbour = AsgiCall(
            served, "/v1/completions", {"prompt": "n", "stream": True, "max_tokens": 400}
        )
        await gate.allow(1)
        for name, raw in HOSTILE_FIELDS:
            body = with_field(name, raw)[:-1] + b', "stream": %s}' % str(stream).lower().encode()
            for path in GENERATION:
                began = time.process_time()
                response = await served.client.post(path, content=body, headers=JSON)
                took_s = time.process_time() - began
                assert 400 <= response.status_code < 500, (name, raw[:50], response.text)
                error_of(response)
                assert took_s < 0.5, (name, raw[:50], took_s)
        await gate.open()
        await neighbour.task
        texts = [event["choices"][0]["text"] for event in neighbour.events]
        assert "".join(texts) == "a" * 300
        nothing_left(served)


async def test_errors_never_echo_more_than_200_characters(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        secret = "Z" * 3000
        for fields in (
            {"model": secret}, {"user": secret}, {"include": [secret]}, {"n": secret},
            {"strict": True, secret: 1}, {"logit_bias": {secret: 1}}, {"stop": [secret]},
            {"cache_salt": secret}, {"prompt": [[secret]]}, {"temperature": [secret]},
        ):  # fmt: skip
            response = await served.complete(**{"prompt": "x", **fields})
            assert 400 <= response.status_code < 500
            assert response.text.count("Z") <= 200
            error_of(response)


@pytest.mark.parametrize(
    "text",
    ["\x00" * 10, " " * 50, "e\u0301" * 20, "🎉" * 20, "\u202e\u200fabc", "\ufdd0", "<|end|>" * 9,
     "\ufffe\uffff", "\U0010ffff"],
)  # fmt: skip
async def test_odd_texts_are_served_and_come_back_as_they_are(tmp_path: Path, text: str) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        plain = await served.complete(text, max_tokens=0, echo=True)
        assert plain.json()["choices"][0]["text"] == text
        assert (await served.chat(text, max_tokens=2)).status_code == 200
        ids = (await served.client.post("/tokenize", json={"prompt": text})).json()["tokens"]
        back = await served.client.post("/detokenize", json={"tokens": ids})
        assert back.json()["prompt"] == text


@pytest.mark.parametrize("unit", ["a", " ", "é", "ab ", "🎉", "<|end|>", "\n", '"', "\x00"])
async def test_a_prompt_that_can_never_fit_is_refused_before_tokenizing(
    tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        tokenizer: Any = served.services.models["tiny"].tokenizer
        tokenizer.encode = tokenizer.encode_rendered = None  # nobody may call these
        text = unit * (300_000 // len(unit.encode()))
        refused(await served.complete(text), 400, "context_length_exceeded", "prompt")
        refused(await served.chat(text), 400, "context_length_exceeded", "messages")
        response = await served.client.post("/tokenize", json={"prompt": text})
        refused(response, 400, "context_length_exceeded", "prompt")
        nothing_left(served)


async def test_token_ids_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        for token_id in (-1, 261, 2**31, 2**63, 2**64 - 1, -(2**63)):
            refused(await served.complete([1, token_id]), 400, "invalid_value", "prompt")
            response = await served.client.post("/detokenize", json={"tokens": [token_id]})
            refused(response, 400, "invalid_value", "tokens")


# --- size ----------------------------------------------------------------------------------------


async def pieces(total: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(total // size):
        yield b" " * size


@pytest.mark.parametrize("path", POST_ROUTES)
async def test_a_body_over_the_limit_is_413_with_and_without_a_length(
    tmp_path: Path, path: str
) -> None:
    async with serve(tmp_path, max_body_bytes=4096) as served:
        good = {**FINE, "messages": None} if "tokenize" in path else FINE
        fits = json.dumps(good).encode().ljust(4096)
        response = await served.client.post(path, content=fits, headers=JSON)
        assert response.status_code == 200, response.text
        for content in (fits + b" ", pieces(5000, 100), pieces(4200, 1)):
            response = await served.client.post(path, content=content, headers=JSON)
            refused(response, 413, "request_too_large")
        announced = await served.client.post(
            path, content=b"{}", headers={**JSON, "content-length": "9" * 30}
        )
        refused(announced, 413, "request_too_large")


async def test_the_default_limit_is_two_mebibytes(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.post(
            "/v1/completions", content=b" " * ((2 << 20) + 1), headers=JSON
        )
        refused(response, 413, "request_too_large")


# --- content types, methods, paths ---------------------------------------------------------------


OTHER_TYPES = [
    "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
    "application/jsonx", "text/json", "application/xml",
]  # fmt: skip


async def test_other_content_types_are_415(tmp_path: Path) -> None:
    """Also what stops a form on another site from posting here."""
    async with serve(tmp_path) as served:
        for media_type in OTHER_TYPES:
            for path in POST_ROUTES:
                response = await served.client.post(
                    path, content=json.dumps(FINE), headers={"content-type": media_type}
                )
                refused(response, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"]
)
async def test_json_with_any_charset_is_taken(tmp_path: Path, media_type: str) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.post(
            "/v1/completions", content=json.dumps(FINE), headers={"content-type": media_type}
        )
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/completions", "POST"), ("PUT", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"), ("POST", "/v1/models/tiny", "GET"),
        ("POST", "/livez", "GET"), ("PATCH", "/tokenize", "POST"), ("POST", "/metrics", "GET"),
    ],
)  # fmt: skip
async def test_wrong_methods_are_405_with_allow(
    tmp_path: Path, method: str, path: str, allow: str
) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.request(method, path)
        refused(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allow


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v2/completions", "/v1/completions/", "/v1/chat", "//v1/models",
     "/v1/completions/../../etc/passwd", "/static-offline-docs/nope", "/x" * 2000,
     "/admin/models/load", "/admin/drain", "/admin/keys/reload", "/v1/rerank", "/redoc",
     "/static-offline-docs/../app.py"],
)  # fmt: skip
async def test_unknown_paths_and_what_is_not_offered_are_404(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        for method in ("GET", "POST"):
            body = {} if method == "POST" else None
            response = await served.client.request(method, path, json=body)
            if response.status_code == 405:  # a folder of files knows GET only
                assert path.startswith("/static")
                continue
            refused(response, 404, "unknown_url")
            assert "location" not in response.headers


@pytest.mark.parametrize("num_names", [30, pytest.param(10_000, marks=pytest.mark.faults)])
async def test_random_model_names_make_no_metric_series(tmp_path: Path, num_names: int) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):

        async def call(i: int) -> None:
            await served.complete(model=f"name{i}\n")
            await served.client.get(f"/random{i}")
            await served.client.request("BREW", "/v1/completions")

        async def num_series() -> int:
            text = (await served.client.get("/metrics")).text
            return sum(not line.startswith("#") for line in text.splitlines())

        await call(0)
        await num_series()
        before = await num_series()
        for i in range(1, num_names):
            await call(i)
        assert await num_series() == before


@pytest.mark.parametrize("fields", [{"model": "nope"}, {"model": ""}, {"model": "TINY"}])
async def test_an_unknown_model_is_404_and_the_known_ones_are_named(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    names = tuple(f"m{i}" for i in range(12))
    async with serve(tmp_path, names=names) as served:
        for response in (
            await served.complete(**fields),
            await served.chat(**fields),
            await served.client.post("/tokenize", json={"prompt": "x", **fields}),
            await served.client.get("/tokenizer_info", params=fields),
        ):
            refused(response, 404, "model_not_found", "model")
            assert response.text.count("m1") == 1
            assert "m9" in response.text
            assert "m10" not in response.text  # ten names at most


async def test_with_several_models_one_must_be_named(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b")) as served:
        refused(await served.complete(), 400, "missing_required_parameter", "model")
        assert (await served.complete(model="b")).json()["model"] == "b"
    async with serve(tmp_path, names=("a", "b"), default_model="b") as served:
        assert (await served.complete()).json()["model"] == "b"
        assert (await served.complete(model=None)).json()["model"] == "b"
        listed = (await served.client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == ["b", "a"]  # what the commands take


@pytest.mark.parametrize("path", GENERATION)
async def test_what_is_missing_is_named(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.post(path, json={})
        param = "messages" if "chat" in path else "prompt"
        refused(response, 400, "missing_required_parameter", param)
        refused(
            await served.client.post(path, json={param: None}),
            400, "missing_required_parameter", param,
        )  # fmt: skip
