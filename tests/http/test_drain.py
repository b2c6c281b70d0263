"""A server that shuts down finishes what runs, takes nothing new and ends what is left openly."""

import asyncio
from pathlib import Path

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
