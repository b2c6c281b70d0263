"""Deadlines: that pass while a request waits or decodes, and that the queue cannot meet."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.http.building import (
    AsgiCall,
    Gate,
    nothing_left,
    refused,
    serve_script,
    settle,
)
from tests.http.test_admission import BODY, full, wait_of
from tests.http.test_queue import stats


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_that_passes_while_waiting_is_504_with_no_step_spent(
    tmp_path: Path, stream: bool
) -> None:
    async with serve_script(tmp_path, "ab") as (served, runner):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {**BODY, "max_time": 0.05, "stream": stream})
        await asyncio.sleep(0.1)
        await gate.open()
        await call.task
        assert call.answer.status == 504
        assert call.answer.headers is not None
        assert call.answer.headers["x-should-retry"] == "false"
        error = json.loads(call.answer.body)["error"]
        assert (error["code"], error["type"]) == ("request_timeout", "timeout_error")
        assert runner.num_steps == 0
        nothing_left(served)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_deadline_while_decoding_gives_what_is_there(tmp_path: Path, stream: bool) -> None:
    async with serve_script(tmp_path, "abcdef") as (served, runner):
        gate = Gate(served)
        body = {"prompt": "x", "max_time": 0.3, "stream": stream}
        call = AsgiCall(served, "/v1/completions", body)
        await gate.allow(3)
        await asyncio.sleep(0.35)
        await gate.open()
        await call.task
        if stream:
            choices = [event["choices"][0] for event in call.events]
        else:
            choices = json.loads(call.answer.body)["choices"]
        assert "".join(choice["text"] for choice in choices) == "abc"
        assert (choices[-1]["finish_reason"], choices[-1]["stop_reason"]) == ("length", "max_time")
        assert runner.num_steps == 3
        nothing_left(served)


async def test_the_server_has_a_hard_limit_of_its_own(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", request_timeout=0.05) as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {**BODY, "max_time": 500})
        await asyncio.sleep(0.1)
        await gate.open()
        await call.task
        assert call.answer.status == 504


async def test_a_deadline_that_the_queue_cannot_meet_is_503_at_once(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", max_batch_size=1, max_queue=50) as (served, _):
        gate = Gate(served)
        waiting = full(served, 20)
        await settle(100)
        served.services.admission._stats = {"tiny": stats(tokens_per_s=10.0)}
        response = await served.complete(max_time=0.5)
        refused(response, 503, "server_is_overloaded")
        wait_of(response.headers)
        (patient,) = full(served, 1, max_time=500)
        await gate.open()
        await asyncio.gather(patient.task, *(call.task for call in waiting))
        assert patient.answer.status == 200
        nothing_left(served)
