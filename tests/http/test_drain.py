"""A server that shuts down finishes what runs, takes nothing new and ends what is left openly."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from shoal.server.drain import Drain
from tests.fakes.http_app import Served
from tests.http.building import AsgiCall, Gate, error_of, nothing_left, refused, serve_script
from tests.http.test_admission import BODY, wait_of


async def test_a_draining_server_finishes_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        gate = Gate(served)
        running = AsgiCall(served, "/v1/completions", {**BODY, "stream": True})
        await gate.allow(1)
        served.services.draining = True
        for _ in range(3):
            response = await served.complete(stream=True)
            refused(response, 503, "shutting_down")
            wait_of(response.headers)
        ready = await served.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["status"] == "shutting_down"
        assert (await served.client.get("/livez")).status_code == 200
        assert len(served.services.open_requests) == 1
        await gate.open()
        await running.task
        assert running.answer.body.endswith(b"data: [DONE]\n\n")
        nothing_left(served)


async def test_what_is_open_when_the_engine_closes_gets_an_error_event(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        gate = Gate(served)
        stream = AsgiCall(served, "/v1/completions", {**BODY, "stream": True})
        plain = AsgiCall(served, "/v1/completions", BODY)
        await gate.allow(1)
        await served.services.client.close()
        await asyncio.gather(stream.task, plain.task)
        assert stream.events[-1]["error"]["code"] == "shutting_down"
        assert stream.answer.body.endswith(b"data: [DONE]\n\n")
        assert plain.answer.status == 503
        assert not served.services.open_requests
        error_of(await served.complete())


# --- by signal -----------------------------------------------------------------------------------


def drain_of(served: Served, *signals: int) -> "asyncio.Task[None]":
    drain = Drain(served.services, asyncio.Event())
    assert all(drain.on_signal(number) for number in signals)
    return asyncio.create_task(drain.run())


@pytest.mark.parametrize(
    ("number", "delay_s", "least_s"), [(signal.SIGTERM, 0.3, 0.3), (signal.SIGINT, 60, 0)]
)
async def test_after_sigterm_an_idle_server_answers_for_the_delay(
    tmp_path: Path, number: int, delay_s: float, least_s: float
) -> None:
    async with serve_script(tmp_path, "ab", shutdown_delay=delay_s) as (served, _):
        began = time.monotonic()
        draining = drain_of(served, number)
        assert (await served.client.get("/readyz")).status_code == 503  # at once
        response = await served.complete()
        refused(response, 503, "shutting_down")
        assert response.headers["connection"] == "close"
        await draining
        assert least_s <= time.monotonic() - began < 10


async def test_what_has_not_begun_is_refused_and_what_runs_finishes(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", max_batch_size=2, shutdown_delay=0) as (served, _):
        gate = Gate(served)
        first = [AsgiCall(served, "/v1/completions", {**BODY, "stream": True}) for _ in range(2)]
        await gate.allow(1)
        last = [
            AsgiCall(served, "/v1/completions", {**BODY, "stream": stream})
            for stream in (True, False)
        ]
        await gate.allow(1)  # the engine says that two wait
        draining = drain_of(served, signal.SIGTERM)
        await asyncio.gather(*(call.task for call in last))
        for call in last:
            assert call.answer.status == 503
            assert b"shutting_down" in call.answer.body
            assert call.answer.headers is not None
            assert call.answer.headers["connection"] == "close"
            wait_of(call.answer.headers)
        await gate.open()
        await draining
        for call in first:
            assert call.events[-1]["choices"][0]["finish_reason"] == "stop"
            assert call.answer.body.endswith(b"data: [DONE]\n\n")
        nothing_left(served)


@pytest.mark.parametrize("ended_by", ["limit", "second signal"])
async def test_what_is_left_ends_with_an_error_event(tmp_path: Path, ended_by: str) -> None:
    limit_s = 0.2 if ended_by == "limit" else 60
    settings = {"drain_timeout": limit_s, "shutdown_delay": 0.1 if ended_by == "limit" else 60}
    async with serve_script(tmp_path, "ab", **settings) as (served, _):
        gate = Gate(served)
        stream = AsgiCall(served, "/v1/completions", {**BODY, "stream": True})
        plain = AsgiCall(served, "/v1/completions", BODY)
        await gate.allow(1)
        signals = [signal.SIGTERM] * (1 if ended_by == "limit" else 2)
        await asyncio.wait_for(drain_of(served, *signals), limit_s + 2)
        assert stream.events[-1]["error"]["code"] == "shutting_down"
        assert stream.answer.body.endswith(b"data: [DONE]\n\n")
        assert plain.answer.status == 503
        assert not served.services.open_requests


async def test_the_third_signal_does_not_wait_for_anything(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        drain = Drain(served.services, asyncio.Event())
        said = [drain.on_signal(signal.SIGINT) for _ in range(3)]
        assert said == [True, True, False]
