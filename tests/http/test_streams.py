"""Streams: shapes byte by byte, joined text equal to the plain answer, usage, pings, slow
readers, errors after the start."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.http_app import sse_events
from tests.http.building import (
    AsgiCall,
    Gate,
    nothing_left,
    plain_texts,
    records,
    serve_script,
    settle,
    streamed_texts,
    until,
)


def shape(text: str) -> list[str]:
    """A stream with what differs from call to call put away."""
    text = re.sub(r'"id":"(cmpl|chatcmpl)-[0-9a-f]{32}"', r'"id":"\1-I"', text)
    text = re.sub(r'"created":\d+', '"created":T', text)
    assert text.endswith("\n\n")
    return text[:-2].split("\n\n")


async def test_a_completion_stream_byte_by_byte(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "aé") as (served, _):
        response = await served.complete("x", stream=True)
        head = '{"id":"cmpl-I","object":"text_completion","created":T,"model":"tiny","choices":['

        def chunk(text: str, reason: str = "null") -> str:
            return (
                f'data: {head}{{"index":0,"text":"{text}","logprobs":null,'
                f'"finish_reason":{reason},"stop_reason":null}}]}}'
            )

        assert shape(response.text) == [
            chunk("a"), chunk(""), chunk("é"), chunk("", '"stop"'), "data: [DONE]",
        ]  # fmt: skip
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        assert "content-encoding" not in response.headers
        assert "\r" not in response.text


async def test_a_chat_stream_byte_by_byte(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        response = await served.chat("x", stream=True)
        head = (
            'data: {"id":"chatcmpl-I","object":"chat.completion.chunk","created":T,'
            '"model":"tiny","choices":[{"index":0,"delta":'
        )
        middle = ',"logprobs":null,"finish_reason":null}]}'
        assert shape(response.text) == [
            head + '{"role":"assistant","content":""}' + middle,
            head + '{"content":"a"}' + middle,
            head + '{"content":"b"}' + middle,
            head + '{},"logprobs":null,"finish_reason":"stop","stop_reason":null}]}',
            "data: [DONE]",
        ]


async def test_id_created_and_model_are_the_same_in_all_chunks(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        for response in (
            await served.complete(stream=True, n=2, logprobs=1),
            await served.chat(stream=True, n=2, stream_options={"include_usage": True}),
        ):
            heads = {(e["id"], e["object"], e["created"], e["model"]) for e in records(response)}
            assert len(heads) == 1


@pytest.mark.parametrize("chat", [False, True])
async def test_usage_comes_once_before_the_end_when_asked_for(tmp_path: Path, chat: bool) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        ask = served.chat if chat else served.complete
        plain = (await ask("xy")).json()["usage"]
        events = records(await ask("xy", stream=True, stream_options={"include_usage": True}))
        assert [event["usage"] for event in events[:-1]] == [None] * (len(events) - 1)
        assert events[-1]["choices"] == []
        for usage in (plain, events[-1]["usage"]):
            usage.pop("prompt_tokens_details")  # the second call finds a cached prefix
        assert events[-1]["usage"] == plain
        silent = records(await ask("xy", stream=True))
        assert all("usage" not in event for event in silent)


@pytest.mark.parametrize("chat", [False, True])
async def test_running_usage_is_in_every_chunk_when_asked_for(tmp_path: Path, chat: bool) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        ask = served.chat if chat else served.complete
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = records(await ask("xy", stream=True, stream_options=options))
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == sorted(counts)
        assert counts[-1] == 4
        assert events[-1]["choices"] == []


async def test_one_chunk_for_each_step_and_choice(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abcdef") as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True, "n": 3})
        await settle()
        assert call.answer.status == 0  # nothing before the first token
        for step in range(1, 8):
            await gate.allow(1)
            assert len(call.events) == 3 * step
        assert call.answer.ended
        assert streamed_texts(call.events) == {0: "abcdef", 1: "abcdef", 2: "abcdef"}
        await call.task


async def test_the_role_comes_with_the_first_token_not_earlier(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        gate = Gate(served)
        body = {"messages": [{"role": "user", "content": "Hello there."}], "stream": True}
        call = AsgiCall(served, "/v1/chat/completions", body)
        await settle()
        assert call.answer.body == b""
        await gate.allow(1)
        assert [event["choices"][0]["delta"] for event in call.events] == [
            {"role": "assistant", "content": ""},
            {"content": "a"},
        ]
        await gate.open()
        await call.task


# --- streamed equals plain -----------------------------------------------------------------------

LETTERS = st.text(alphabet="abé日🎉 ", max_size=14)
RAW = st.binary(max_size=14).map(list)  # broken characters too; token ids are bytes here


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    script=LETTERS.map(lambda text: list(text.encode())) | RAW,
    stops=st.lists(st.text(alphabet="abé日🎉 ", min_size=1, max_size=3), max_size=3),
    n=st.integers(1, 3),
    max_tokens=st.integers(1, 16),
    min_tokens=st.integers(0, 3),
    keep=st.booleans(),
    chat=st.booleans(),
    buffered=st.booleans(),
)
def test_streamed_text_equals_plain_text(
    tmp_path: Path,
    script: list[int],
    stops: list[str],
    n: int,
    max_tokens: int,
    min_tokens: int,
    keep: bool,
    chat: bool,
    buffered: bool,
) -> None:
    """For any stops, broken and whole multi-byte characters, several choices, a slow reader."""
    asked = {
        "stop": stops, "n": n, "max_tokens": max_tokens, "temperature": 0,
        "min_tokens": min(min_tokens, max_tokens), "include_stop_str_in_output": keep,
    }  # fmt: skip

    async def compare() -> None:
        chunks = 1 if buffered else 256
        async with serve_script(
            tmp_path, lambda prompt, sampling: script, stream_buffer_chunks=chunks
        ) as (served, _):
            ask = served.chat if chat else served.complete
            plain, streamed = await ask("x", **asked), await ask("x", stream=True, **asked)
            assert streamed_texts(records(streamed)) == plain_texts(plain)
            reasons = {
                choice["index"]: (choice["finish_reason"], choice["stop_reason"])
                for event in records(streamed)
                for choice in event["choices"]
                if choice["finish_reason"]
            }
            assert reasons == {
                choice["index"]: (choice["finish_reason"], choice["stop_reason"])
                for choice in plain.json()["choices"]
            }
            nothing_left(served)

    asyncio.run(compare())


# --- silence, slow readers -----------------------------------------------------------------------


async def test_silence_is_filled_with_pings_from_the_queue_on(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", keepalive_interval=0.05) as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True})
        await until(lambda: call.answer.body.count(b": ping\n\n") >= 2)
        assert call.answer.status == 200  # sent with the first ping
        assert call.answer.body.replace(b": ping\n\n", b"") == b""
        await gate.allow(1)
        before = call.answer.body.count(b": ping\n\n")
        await until(lambda: call.answer.body.count(b": ping\n\n") > before)
        await gate.open()
        await call.task
        assert streamed_texts(call.events) == {0: "ab"}


async def test_pings_can_be_off(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", keepalive_interval=0) as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True})
        await asyncio.sleep(0.2)
        assert call.answer.status == 0
        await gate.open()
        await call.task
        assert b"ping" not in call.answer.body


async def test_a_plain_answer_has_no_pings(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", keepalive_interval=0.02) as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x"})
        await asyncio.sleep(0.1)
        assert call.answer.status == 0
        await gate.open()
        await call.task
        assert json.loads(call.answer.body)["choices"][0]["text"] == "ab"


async def test_an_error_after_a_ping_is_an_event_and_then_the_end(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab", keepalive_interval=0.03) as (served, runner):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True})
        await until(lambda: b": ping" in call.answer.body)
        runner.error = "numerical_error"
        await gate.open()
        await call.task
        assert call.answer.body.endswith(b"data: [DONE]\n\n")
        assert call.events[-1]["error"]["code"] == "numerical_error"
        nothing_left(served)


async def test_a_slow_reader_gets_merged_chunks_and_the_whole_text(tmp_path: Path) -> None:
    text = "é" * 200
    async with serve_script(tmp_path, text, stream_buffer_chunks=8) as (served, runner):
        body = {"prompt": "x", "stream": True, "max_tokens": 500, "n": 2, "logprobs": 0}
        call = AsgiCall(served, "/v1/completions", body)
        call.reads.clear()
        await until(lambda: runner.num_steps >= 401)  # the engine does not wait for the reader
        await settle()
        assert served.core.stats()[0].num_running == 0
        call.reads.set()
        await call.task
        assert streamed_texts(call.events) == {0: text, 1: text}
        assert len(call.events) <= 2 * 8 + 4
        tokens: dict[int, int] = {}
        for event in call.events:
            for choice in event["choices"]:
                offsets = choice["logprobs"]["text_offset"]
                assert offsets == sorted(offsets)
                tokens[choice["index"]] = tokens.get(choice["index"], 0) + len(offsets)
        assert tokens == {0: 401, 1: 401}
        nothing_left(served)


async def test_a_reader_that_stands_still_is_cancelled(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a" * 400, stream_stall_timeout=0.15, max_model_len=1000) as (
        served,
        _,
    ):
        gate = Gate(served)
        body = {"prompt": "x", "stream": True, "max_tokens": 500}
        call = AsgiCall(served, "/v1/completions", body)
        other = AsgiCall(served, "/v1/completions", body)
        await gate.allow(3)
        call.reads.clear()
        await gate.allow(3)
        await asyncio.wait_for(call.task, 2)
        assert not call.answer.ended
        await gate.open()
        await other.task
        assert streamed_texts(other.events) == {0: "a" * 400}
        nothing_left(served)


async def test_a_reader_that_stands_still_at_a_ping_is_cancelled_too(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc", keepalive_interval=0.05, stream_stall_timeout=0.2) as (
        served,
        _,
    ):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True})
        await gate.allow(1)
        call.reads.clear()  # the next thing that is sent is a ping
        await asyncio.sleep(0.12)
        await gate.allow(1)
        await asyncio.wait_for(call.task, 2)
        nothing_left(served)


@pytest.mark.parametrize("route", ["completions", "chat"])
async def test_a_stream_says_how_far_it_is_before_its_first_token(
    tmp_path: Path, route: str
) -> None:
    async with serve_script(tmp_path, "abc", token_budget=16) as (served, _):
        prompt = "x" * 100
        fields: dict[str, Any] = {"stream": True, "stream_options": {"include_progress": True}}
        ask = served.chat if route == "chat" else served.complete
        *events, done = sse_events((await ask(prompt, **fields)).text)
        first, *rest = map(json.loads, events)
        assert first["choices"] == []
        told = first["progress"]
        assert (told["stage"], told["position"], told["processed"]) == ("prefill", 0, 16)
        assert told["total"] >= 100
        assert done == "[DONE]"
        pieces = [choice for event in rest for choice in event["choices"]]
        text = "".join(c.get("text") or c.get("delta", {}).get("content", "") for c in pieces)
        assert text == "abc"
