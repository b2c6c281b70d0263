"""Beam search in requests: its choices, what goes with it, and how it ends early."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from shoal.protocol.messages import TokenLogprobs
from shoal.text.beam import BeamParams, BeamSearch
from tests.http.building import (
    AsgiCall,
    Gate,
    logprob_at,
    nothing_left,
    refused,
    serve_script,
    settle,
    until,
)

BEAMS: dict[str, Any] = {"use_beam_search": True, "temperature": 0}


def best_at(position: int, count: int) -> list[int]:
    return sorted(range(261), key=lambda i: (-logprob_at(i, position), i))[:count]


async def test_choices_are_the_best_sequences(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        body = {**BEAMS, "n": 2, "best_of": 4, "max_tokens": 2, "ignore_eos": True}
        answer = (await served.complete("ab", **body, return_token_ids=True, logprobs=2)).json()
        pairs = [(a, b) for a in best_at(2, 8) for b in best_at(3, 8)]
        pairs.sort(key=lambda pair: -(logprob_at(pair[0], 2) + logprob_at(pair[1], 3)))
        sums = [sum(choice["logprobs"]["token_logprobs"]) for choice in answer["choices"]]
        wanted = [logprob_at(a, 2) + logprob_at(b, 3) for a, b in pairs[:2]]
        assert sums == pytest.approx(wanted)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        assert len(answer["choices"][0]["logprobs"]["top_logprobs"][0]) >= 2
        assert answer["usage"]["completion_tokens"] == 4
        assert answer["choices"][0]["finish_reason"] == "length"
        nothing_left(served)


async def test_prompts_and_chats_can_be_searched(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        two = await served.complete(["a", "abc"], **BEAMS, n=2, max_tokens=3)
        assert len(two.json()["choices"]) == 4, two.text
        chat = await served.chat(**BEAMS, n=3, max_tokens=3)
        assert len(chat.json()["choices"]) == 3, chat.text
        nothing = await served.complete("a", **BEAMS, n=2, max_tokens=0)
        assert [choice["text"] for choice in nothing.json()["choices"]] == ["", ""]
        nothing_left(served)


async def test_what_does_not_go_with_it_is_named(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        for fields, param in [
            ({"stream": True}, "stream"),
            ({"temperature": 0.5}, "temperature"),
            ({"top_p": 0.9}, "top_p"),
            ({"top_k": 5}, "top_k"),
            ({"stop": "a"}, "stop"),
            ({"logit_bias": {"a": 1}}, "logit_bias"),
            ({"presence_penalty": 1}, "presence_penalty"),
            ({"dry_multiplier": 1}, "dry_multiplier"),
            ({"allowed_token_ids": [4]}, "allowed_token_ids"),
            ({"prompt_logprobs": 1}, "prompt_logprobs"),
            ({"stop_on_loop": True}, "stop_on_loop"),
        ]:
            response = await served.complete(**{**BEAMS, **fields})
            refused(response, 400, "unsupported_parameter", param)
        refused(await served.complete(length_penalty=2), 400, "invalid_value", "length_penalty")
        refused(
            await served.complete(**BEAMS, early_stopping="now"),
            400, "invalid_value", "early_stopping",
        )  # fmt: skip
        nothing_left(served)


async def test_a_search_ends_with_its_client_its_engine_or_its_request(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, runner):
        gate = Gate(served)
        body = {"prompt": "x", **BEAMS, "n": 3, "max_tokens": 50}
        gone = AsgiCall(served, "/v1/completions", body)
        await settle()
        await gate.allow(4)
        gone.disconnect()
        await gone.task
        assert served.core.stats()[0].num_running == 0
        named = {"x-request-id": "beam"}
        cancelled = asyncio.create_task(
            served.client.post("/v1/completions", json=body, headers=named)
        )
        await settle()
        await gate.allow(4)
        answer = await served.client.post("/v1/requests/beam/cancel")
        assert answer.json() == {"cancelled": True, "tokens_generated": 0}
        choices = (await cancelled).json()["choices"]
        assert [choice["stop_reason"] for choice in choices] == ["cancelled"] * 3
        await gate.open()
        runner.error = "numerical_error"
        refused(await served.complete(**BEAMS), 500, "numerical_error")
        await until(lambda: not served.services.open_requests)
        nothing_left(served)


async def test_a_search_that_runs_out_of_time_shows_what_it_has(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        gate = Gate(served)
        task = asyncio.create_task(served.complete(**BEAMS, n=2, max_tokens=90, max_time=0.4))
        await settle()
        await gate.allow(5)
        await asyncio.sleep(0.45)
        await gate.open()
        choices = (await task).json()["choices"]
        assert [c["stop_reason"] for c in choices] == ["max_time"] * 2
        assert all(choice["text"] for choice in choices)
        nothing_left(served)


def test_a_search_stops_when_nothing_better_can_come() -> None:
    search = BeamSearch(BeamParams(2), frozenset({9}), max_tokens=100)
    say = TokenLogprobs(0, 0.0, [9, 1, 2, 3], [-0.1, -3.0, -4.0, -5.0])
    search.advance([say])
    assert not search.is_done  # one of two is finished
    search.advance([say, say])
    assert search.is_done
    assert [beam.token_ids for beam in search.best(2)] == [(9,), (1, 9)]
