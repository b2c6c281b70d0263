"""Streams from bytes to results: recorded files in every cut, ends of every kind."""

from pathlib import Path
from typing import Any

import pytest

from shoal.client import (
    RateLimited,
    ResponseInvalid,
    ServerError,
    StatusError,
    StreamInterrupted,
    Unavailable,
)
from shoal.client.testing import (
    DONE,
    PING,
    Fault,
    MockServer,
    chat_event,
    completion_event,
    completion_json,
    event_bytes,
)
from tests.client.both import Sdk, both, open_stream

STREAMS = Path(__file__).parent / "streams"


def recorded(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


@both
async def test_every_cut_of_a_recorded_stream_gives_the_same_text(sdk: Sdk) -> None:
    data, server = recorded("completion"), MockServer()
    client = sdk.client(server)
    for cut in range(1, len(data)):
        server.stream(data[:cut], data[cut:])
        stream = await sdk.do(client.completions.create("x", stream=True))
        assert await sdk.all(stream.text_deltas()) == [" blue", " è", "\r\n🐟"]
        assert stream.text == " blue è\r\n🐟"
        assert stream.usage.total_tokens == 9


@both
@pytest.mark.parametrize("broken", [(), (Fault.LOST,)], ids=["ended", "broken"])
async def test_a_stream_that_ends_at_any_byte_is_interrupted_or_whole(
    sdk: Sdk, broken: tuple[Fault, ...]
) -> None:
    data, server = recorded("completion"), MockServer()
    client = sdk.client(server)
    finished_at = data.index(b"\n\n", data.index(b'"finish_reason":"stop"')) + 2
    for end in range(1, len(data)):
        server.stream(data[:end], *broken)
        stream = await sdk.do(client.completions.create("x", stream=True))
        if end >= finished_at:
            assert (await sdk.do(stream.final())).text == " blue è\r\n🐟"
            continue
        with pytest.raises(StreamInterrupted) as caught:
            await sdk.do(stream.final())
        assert " blue è\r\n🐟".startswith(caught.value.text)
        assert caught.value.text == stream.text
        assert stream.closed


@both
@pytest.mark.parametrize("name", ["server_completion", "server_chat"])
async def test_recordings_of_our_server_end_only_at_their_end(sdk: Sdk, name: str) -> None:
    data = recorded(name)
    chat = name == "server_chat"
    fields: dict[str, Any] = {} if chat else {"prompt": ["Once", "upon"], "n": 2}
    whole = await sdk.do((await open_stream(sdk, data, chat=chat, **fields)).final())
    assert whole.usage.completion_tokens > 0
    assert all(choice.finish_reason for choice in whole.choices)
    finished_at = data.index(b"\n\n", data.rindex(b'"finish_reason":"')) + 2
    for end in range(7, len(data), 97):
        stream = await open_stream(sdk, data[:end], chat=chat, **fields)
        if end >= finished_at:
            assert (await sdk.do(stream.final())).choices == whole.choices
            continue
        with pytest.raises(StreamInterrupted):
            await sdk.do(stream.final())


@both
async def test_a_recorded_stream_without_done_is_whole(sdk: Sdk) -> None:
    stream = await open_stream(sdk, recorded("no_done"))
    assert (await sdk.do(stream.final())).text == " blue!"


@both
async def test_interrupted_text_is_all_that_arrived(sdk: Sdk) -> None:
    stream = await open_stream(
        sdk, completion_event("one"), event_bytes(completion_event(" two")) + b"data: {", Fault.LOST
    )
    with pytest.raises(StreamInterrupted) as caught:
        await sdk.all(stream)
    assert caught.value.text == "one two"
    assert caught.value.request_id == stream.request_id
    assert type(caught.value.__cause__).__name__ == "ConnectionFailed"


@both
async def test_an_empty_stream_is_interrupted(sdk: Sdk) -> None:
    for parts in ((), (PING,), (PING, b"data: [DO")):
        stream = await open_stream(sdk, *parts)
        with pytest.raises(StreamInterrupted):
            await sdk.all(stream)


@both
async def test_without_done_every_choice_must_have_finished(sdk: Sdk) -> None:
    ends = [completion_event("a", index=0, finish_reason="stop"),
            completion_event("b", index=1, finish_reason="length")]  # fmt: skip
    stream = await open_stream(sdk, *ends, n=2)
    assert [choice.text for choice in (await sdk.do(stream.final())).choices] == ["a", "b"]
    stream = await open_stream(sdk, ends[0], n=2)
    with pytest.raises(StreamInterrupted):
        await sdk.do(stream.final())


@both
async def test_choices_are_put_together_by_index(sdk: Sdk) -> None:
    stream = await open_stream(sdk, recorded("two_choices_logprobs"), n=2, logprobs=1)
    result = await sdk.do(stream.final())
    first, second = result.choices
    assert (first.index, first.text, first.finish_reason) == (0, "é!", "length")
    assert (second.index, second.text, second.finish_reason) == (1, "Hi yo", "stop")
    assert first.logprobs.tokens == ["é", "!", "<end>"]
    assert first.logprobs.text_offset == [0, 1, 2]
    assert first.logprobs.top_logprobs[1] == {"!": -0.5, " x": -1.5}
    assert len(first.logprobs.token_logprobs) == 3


@both
async def test_text_deltas_are_those_of_one_choice(sdk: Sdk) -> None:
    stream = await open_stream(sdk, recorded("two_choices_logprobs"), n=2)
    assert await sdk.all(stream.text_deltas(1)) == ["Hi", " yo"]
    stream = await open_stream(sdk, recorded("completion"))
    with pytest.raises(IndexError):
        stream.text_deltas(1)


@both
async def test_a_chat_stream_becomes_a_message(sdk: Sdk) -> None:
    stream = await open_stream(sdk, recorded("chat"), chat=True)
    result = await sdk.do(stream.final())
    message = result.choices[0].message
    assert (message.role, message.content, message.tool_calls) == (
        "assistant",
        "Grüß dich 👋🏽",
        None,
    )
    assert result.choices[0].finish_reason == "stop"
    assert result.usage.completion_tokens == 4
    assert (result.id, result.object, result.model) == ("chatcmpl-5b", "chat.completion", "tiny-a")


@both
async def test_pieces_of_a_tool_call_become_one(sdk: Sdk) -> None:
    stream = await open_stream(sdk, recorded("chat_tools"), chat=True)
    choice = (await sdk.do(stream.final())).choices[0]
    assert choice.message.content is None
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_a", "f", '{"a":1}')


@both
async def test_of_a_field_that_is_not_text_the_latest_value_counts(sdk: Sdk) -> None:
    stream = await open_stream(
        sdk,
        chat_event({"content": "a", "name": "bot", "mood": {"joy": 1}}, rating=1),
        chat_event({"content": "b", "name": "bot", "mood": {"joy": 2}}, rating=2),
        chat_event({}, finish_reason="stop"),
        DONE,
        chat=True,
    )
    choice = (await sdk.do(stream.final())).choices[0]
    assert (choice.message.content, choice.message.name) == ("ab", "bot")
    assert (choice.message.mood, choice.rating) == ({"joy": 2}, 2)


@both
async def test_chat_log_probs_and_reasoning_are_joined(sdk: Sdk) -> None:
    entry = {"token": "a", "logprob": -0.1, "bytes": [97], "top_logprobs": []}
    stream = await open_stream(
        sdk,
        chat_event({"role": "assistant", "content": ""}),
        chat_event({"reasoning_content": "hm"}),
        chat_event({"reasoning_content": "m", "content": "a"}, logprobs={"content": [entry]}),
        chat_event({"content": "b"}, logprobs={"content": [{**entry, "token": "b"}]}),
        chat_event({}, finish_reason="stop"),
        DONE,
        chat=True,
    )
    choice = (await sdk.do(stream.final())).choices[0]
    assert choice.message.reasoning_content == "hmm"
    assert [token.token for token in choice.logprobs.content] == ["a", "b"]


@both
async def test_streamed_and_plain_results_are_equal(sdk: Sdk) -> None:
    server = MockServer()
    client = sdk.client(server)
    server.completion("a b", usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    server.completion_stream("a", " b")
    plain = await sdk.do(client.completions.create("x"))
    streamed = await sdk.do((await sdk.do(client.completions.create("x", stream=True))).final())
    assert streamed.model_dump(exclude_unset=False) == plain.model_dump(exclude_unset=False)


@both
async def test_usage_is_asked_for_and_its_chunk_kept_out_of_sight(sdk: Sdk) -> None:
    server = MockServer()
    server.completion_stream("a")
    server.completion_stream("a")
    client = sdk.client(server)
    stream = await sdk.do(client.completions.create("x", stream=True))
    chunks = await sdk.all(stream)
    assert all(chunk.choices for chunk in chunks)
    assert stream.usage.prompt_tokens == 3
    assert server.requests[0].json["stream_options"] == {"include_usage": True}

    asked = {"include_usage": True}
    stream = await sdk.do(client.completions.create("x", stream=True, stream_options=asked))
    assert (await sdk.all(stream))[-1].choices == []


@both
async def test_ext_at_the_end_reaches_the_result(sdk: Sdk) -> None:
    ext = {"seed": [812], "timings": {"ttft_ms": 44, "tokens_per_second": 31.5}}
    last = {**completion_event("x"), "choices": [], "usage": {"total_tokens": 3}, "ext": ext}
    stream = await open_stream(
        sdk, completion_event("a", finish_reason="stop"), last, DONE, include=["seed", "timings"]
    )
    result = await sdk.do(stream.final())
    assert result.ext.to_dict() == ext
    assert (result.timings.ttft_ms, stream.timings.tokens_per_second) == (44.0, 31.5)


@both
@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        ({"type": "server_error", "code": "internal_error"}, ServerError, 500),
        ({"type": "service_unavailable_error", "code": "engine_restarted"}, Unavailable, 503),
        ({"type": "rate_limit_error", "code": "rate_limit_exceeded"}, RateLimited, 429),
        ({"type": "timeout_error", "code": "request_timeout"}, ServerError, 504),
        ({"message": "other servers", "code": 429}, RateLimited, 429),
        ({"message": "nothing known"}, ServerError, 500),
        ("only words", ServerError, 500),
    ],
)
async def test_an_error_event_raises_its_class_after_the_text_before_it(
    sdk: Sdk, error: Any, kind: type[StatusError], status: int
) -> None:
    data = event_bytes(completion_event("a")) + event_bytes({"error": error}) + DONE
    stream = await open_stream(sdk, data)
    assert (await sdk.next(stream)).choices[0].text == "a"
    with pytest.raises(kind) as caught:
        await sdk.next(stream)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.request_id == stream.request_id
    assert stream.closed
    assert stream.text == "a"
    assert await sdk.all(stream) == []


@both
async def test_a_recorded_error_event_is_found_at_every_cut(sdk: Sdk) -> None:
    data = recorded("error_event")
    for cut in range(1, len(data)):
        stream = await open_stream(sdk, data[:cut], data[cut:])
        with pytest.raises(Unavailable, match="engine restarted"):
            await sdk.all(stream)


@both
async def test_a_named_error_event_raises_too(sdk: Sdk) -> None:
    stream = await open_stream(sdk, b"event: error\ndata: it broke\n\n")
    with pytest.raises(ServerError, match="it broke"):
        await sdk.all(stream)


@both
@pytest.mark.parametrize("data", [b"data: {nonsense\n\n", b"data: []\n\n", b"data: null\n\n",
                                  b"data: {}\n\n", b'data: {"error":{}}\n\n',
                                  b'data: {"choices":[{"index":"x"}]}\n\n'])  # fmt: skip
async def test_an_event_that_is_no_chunk_is_invalid(sdk: Sdk, data: bytes) -> None:
    stream = await open_stream(sdk, data)
    with pytest.raises(ResponseInvalid) as caught:
        await sdk.all(stream)
    assert caught.value.body in data.decode()
    assert stream.closed


@both
async def test_nothing_after_done_is_looked_at(sdk: Sdk) -> None:
    whole = event_bytes(completion_event("a", finish_reason="stop")) + DONE
    stream = await open_stream(sdk, whole + b"data: {nonsense\n\n")
    assert (await sdk.do(stream.final())).text == "a"
    stream = await open_stream(sdk, whole, Fault.LOST)
    assert (await sdk.do(stream.final())).text == "a"


@both
async def test_a_plain_answer_to_a_streamed_call_is_invalid(sdk: Sdk) -> None:
    server = MockServer()
    server.reply(completion_json("a"))
    with pytest.raises(ResponseInvalid, match="asked for a stream, got application/json"):
        await sdk.do(sdk.client(server).completions.create("x", stream=True))


@both
async def test_an_error_status_instead_of_a_stream_raises_at_once(sdk: Sdk) -> None:
    server = MockServer()
    server.error(400, "invalid_value", "no", type="invalid_request_error")
    with pytest.raises(StatusError):
        await sdk.do(sdk.client(server).completions.create("x", stream=True))
