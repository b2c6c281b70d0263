"""Errors after the first token: one event in the documented shape, [DONE], a proper end."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import EngineRestarted
from tests.http.building import AsgiCall, Gate, nothing_left, serve_script


async def test_an_error_after_the_first_token_is_an_event_and_then_the_end(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, runner):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True, "n": 2})
        await gate.allow(1)
        runner.error = "numerical_error"
        await gate.open()
        await call.task
        assert call.answer.status == 200
        assert call.answer.ended
        assert call.answer.body.endswith(b"data: [DONE]\n\n")
        assert set(call.events[-1]) == {"error"}
        assert call.events[-1]["error"]["code"] == "numerical_error"
        assert sum("error" in event for event in call.events) == 1
        nothing_left(served)


@pytest.mark.parametrize("started", [False, True])
async def test_an_engine_crash_is_one_answer_to_every_request(
    tmp_path: Path, started: bool
) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        gate = Gate(served)
        stream = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True, "n": 2})
        plain = AsgiCall(served, "/v1/completions", {"prompt": "x"})
        await gate.allow(1 if started else 0)
        engine: Any = served.services.client
        engine._dispatcher.fail_all(EngineRestarted("again", retry_after_s=2.0))
        await asyncio.gather(stream.task, plain.task)
        assert plain.answer.status == 503
        assert plain.answer.headers is not None
        assert "retry-after" in plain.answer.headers
        assert stream.answer.status == (200 if started else 503)
        if started:
            assert stream.events[-1]["error"]["code"] == "engine_restarted"
            assert stream.answer.body.endswith(b"data: [DONE]\n\n")
        await gate.open()


async def test_a_mistake_of_ours_after_the_start_is_an_event_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True, "logprobs": 1})
        await gate.allow(1)
        tokenizer: Any = served.services.models["tiny"].tokenizer
        tokenizer.token_name = None  # whatever breaks in rendering
        await gate.open()
        await call.task
        assert call.answer.body.endswith(b"data: [DONE]\n\n")
        assert call.events[-1]["error"]["code"] == "internal_error"
        assert "Traceback" not in call.answer.body.decode()
        nothing_left(served)
        del tokenizer.token_name


async def test_a_text_that_breaks_one_sequence_breaks_one_request(tmp_path: Path) -> None:
    """The engine is told to stop what nobody can read."""

    def script(prompt: list[int], sampling: Any) -> list[int]:
        return [300 if prompt[0] == ord("b") else 97] * 50

    async with serve_script(tmp_path, script) as (served, _):
        text: Any = served.services.models["tiny"].tokenizer._text
        whole = text.bytes_of

        def breaks(token_id: int) -> bytes:
            if token_id == 300:
                raise KeyError(token_id)
            data: bytes = whole(token_id)
            return data

        text.bytes_of = breaks
        gate = Gate(served)
        good = AsgiCall(served, "/v1/completions", {"prompt": "a", "max_tokens": 50})
        bad = AsgiCall(served, "/v1/completions", {"prompt": "b", "max_tokens": 50})
        await gate.allow(1)
        await bad.task
        assert bad.answer.status == 500
        await gate.allow(1)
        assert served.core.stats()[0].num_running == 1
        await gate.open()
        await good.task
        assert json.loads(good.answer.body)["choices"][0]["text"] == "a" * 50
        nothing_left(served)
