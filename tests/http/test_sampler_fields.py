"""Sampling options in requests: what they do, what they refuse, and what they report."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shoal.protocol.params import SamplingParams
from tests.fakes.http_app import serve
from tests.fakes.text_folder import END_ID
from tests.http.building import Gate, records, refused, serve_script, settle

CASES: list[tuple[dict[str, Any], str]] = [
    ({"logit_bias": {"ab": 1}}, "logit_bias"),
    ({"logit_bias": {"99999": 1}}, "logit_bias"),
    ({"logit_bias": {"12345678901": 1}}, "logit_bias"),
    ({"logit_bias": {"a": 1, "97": 2}}, "logit_bias"),
    ({"logit_bias": {"a": 101}}, "logit_bias"),
    ({"logit_bias": {"a": True}}, "logit_bias"),
    ({"logit_bias": {"": 1}}, "logit_bias"),
    ({"allowed_token_ids": [5000]}, "allowed_token_ids"),
    ({"no_repeat_ngram_size": 65}, "no_repeat_ngram_size"),
    ({"dry_multiplier": -1}, "dry_multiplier"),
    ({"dry_multiplier": 1, "dry_base": 0.5}, "dry_base"),
    ({"dry_multiplier": 1, "dry_allowed_length": 0}, "dry_allowed_length"),
    ({"dry_multiplier": 1, "dry_sequence_breakers": ["ab"]}, "dry_sequence_breakers"),
    ({"dry_multiplier": 1, "dry_sequence_breakers": [""]}, "dry_sequence_breakers"),
    ({"dry_multiplier": 1, "dry_sequence_breakers": ["a"] * 65}, "dry_sequence_breakers"),
    ({"stop_on_loop": {"min_repeats": 1}}, "stop_on_loop.min_repeats"),
    ({"stop_on_loop": {"max_period": 257}}, "stop_on_loop.max_period"),
    ({"stop_on_loop": 3}, "stop_on_loop"),
    ({"stop_on_loop": {"period": 3}}, "stop_on_loop.period"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"include": ["nothing"]}, "include"),
]


def seen(into: list[SamplingParams], text: str = "x") -> Any:
    def script(prompt: list[int], sampling: SamplingParams) -> list[int]:
        into.append(sampling)
        return list(text.encode())

    return script


async def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        for fields, param in CASES:
            response = await served.complete(**fields)
            error = response.json()["error"]
            assert response.status_code == 400, fields
            assert error["param"] == param, error
            assert error["code"] == "invalid_value", error
            assert "LoopLimits" not in response.text


async def test_options_reach_the_sampler_as_token_ids(tmp_path: Path) -> None:
    params: list[SamplingParams] = []
    async with serve_script(tmp_path, seen(params)) as (served, _):
        body: dict[str, Any] = {
            "logit_bias": {"a": 5, "98": -100, "<|end|>": -1, "é"[:0] + "\n": 2},
            "allowed_token_ids": [99, 98, 98],
            "no_repeat_ngram_size": 3,
            "dry_multiplier": 0.8,
            "include": ["sampling"],
        }
        completed = await served.complete(**body)
        chatted = await served.chat(**body)
        assert completed.status_code == chatted.status_code == 200, completed.text
        assert params[0].logit_bias == ((10, 2.0), (97, 5.0), (98, -100.0), (260, -1.0))
        assert params[0].allowed_token_ids == (98, 99)
        assert params[0].no_repeat_ngram_size == 3
        assert params[0].dry_breaker_ids == tuple(sorted(map(ord, '\n:"*')))
        assert [p.logit_bias for p in params] == [params[0].logit_bias] * len(params)
        assert completed.json()["ext"]["sampling"]["dry_base"] == 1.75
        assert "x-ignored-params" not in completed.headers


async def test_neutral_values_change_nothing(tmp_path: Path) -> None:
    params: list[SamplingParams] = []
    async with serve_script(tmp_path, seen(params)) as (served, _):
        response = await served.complete(
            seed=5, no_repeat_ngram_size=0, dry_multiplier=0, dry_base=2, stop_on_loop=False,
            allowed_token_ids=[], logit_bias={}, truncate_prompt_tokens=None, strict=True,
        )  # fmt: skip
        assert response.status_code == 200, response.text
        await served.complete(seed=5)
        assert params[0].dry_breaker_ids == ()
        assert params[0].allowed_token_ids == ()


async def test_a_text_of_several_tokens_names_them(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        response = await served.complete(logit_bias={"hi": 1})
        refused(response, 400, "invalid_value", "logit_bias")
        assert "104 ('h'), 105 ('i')" in response.json()["error"]["message"]


async def test_a_loop_ends_the_answer(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "one " + "two " * 50) as (served, _):
        response = await served.complete(
            max_tokens=100, stop_on_loop={"min_repeats": 3, "max_period": 4}
        )
        choice = response.json()["choices"][0]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "loop")
        assert choice["text"] == "one two two two"  # " two" three times
        free = await served.complete(max_tokens=100, stop_on_loop={"max_period": 3})
        assert free.json()["choices"][0]["stop_reason"] is None
        late = await served.complete(max_tokens=100, min_tokens=40, stop_on_loop={"min_repeats": 3})
        assert late.json()["usage"]["completion_tokens"] == 41
        streamed = await served.complete(max_tokens=100, stop_on_loop=True, stream=True)
        assert records(streamed)[-1]["choices"][0]["stop_reason"] == "loop"


async def test_a_prompt_is_cut_only_on_request_and_says_so(tmp_path: Path) -> None:
    prompts: list[list[int]] = []

    def script(prompt: list[int], sampling: SamplingParams) -> list[int]:
        prompts.append(prompt)
        return [120, END_ID]

    async with serve_script(tmp_path, script, max_model_len=64) as (served, _):
        too_long = await served.complete("a" * 100)
        refused(too_long, 400, "context_length_exceeded", "prompt")
        kept = await served.complete(["a" * 96 + "wxyz", "z"], truncate_prompt_tokens=4, echo=True)
        assert [c["text"] for c in kept.json()["choices"]] == ["wxyzx", "zx"]
        assert kept.json()["ext"] == {"truncated": [96, 0]}
        assert kept.json()["usage"]["prompt_tokens"] == 5
        prompts.clear()
        most = await served.complete("b" * 5000, truncate_prompt_tokens=-1, max_tokens=10)
        assert most.status_code == 200, most.text
        assert len(prompts[0]) == 54
        chat = await served.chat("c" * 100, truncate_prompt_tokens=20, stream=True)
        assert records(chat)[-1]["ext"]["truncated"][0] > 80
        nothing = await served.complete("a", truncate_prompt_tokens=4)
        assert nothing.json()["ext"] == {"truncated": [0]}


async def test_include_shows_token_ids_and_the_place_in_the_queue(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "hi", max_batch_size=1) as (served, _):
        body = {"include": ["token_ids", "queue"], "n": 2}
        plain = await served.complete(**body)
        assert plain.json()["ext"]["token_ids"] == [[104, 105, END_ID]] * 2
        streamed = await served.complete(**body, stream=True)
        assert records(streamed)[-1]["ext"]["token_ids"] == [[104, 105, END_ID]] * 2
        gate = Gate(served)
        tasks = [asyncio.create_task(served.complete(include=["queue"])) for _ in range(3)]
        await settle()
        await gate.open()
        places = [(await task).json()["ext"]["queue"]["position_at_arrival"] for task in tasks]
        assert places == [0, 1, 2]


async def test_banning_every_token_is_the_callers_error(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, runner):
        runner.error = "no_token_left"
        response = await served.complete(allowed_token_ids=[5], logit_bias={"5": -100})
        refused(response, 400, "invalid_value")
        assert "allowed_token_ids" in response.json()["error"]["hint"]


@pytest.mark.parametrize("stream", [False, True])
async def test_options_are_in_the_document(tmp_path: Path, stream: bool) -> None:
    async with serve(tmp_path) as served:
        document = (await served.client.get("/openapi.json")).json()
        route = "/v1/chat/completions" if stream else "/v1/completions"
        body = document["paths"][route]["post"]["requestBody"]
        names = body["content"]["application/json"]["schema"]["properties"]
        assert {"dry_multiplier", "stop_on_loop", "logit_bias", "allowed_token_ids"} <= set(names)
