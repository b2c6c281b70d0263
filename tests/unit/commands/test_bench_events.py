"""What the stream counter makes of recorded streams, with made-up arrival times."""

import json
from typing import Any

import pytest

from shoal.commands.bench.events import EventStream, StreamOutcome, error_code, usage_of


def frame(event: dict[str, Any] | str) -> bytes:
    return f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()


def token(text: str, finish: str | None = None) -> bytes:
    return frame({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})


def chat(delta: dict[str, str], finish: str | None = None) -> bytes:
    return frame({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


USAGE = frame({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3}})
DONE = frame("[DONE]")


def outcome_of(*frames: bytes) -> StreamOutcome:
    """The frames arrive at 1.0, 2.0, 3.0, …"""
    stream = EventStream()
    for moment, data in enumerate(frames, start=1):
        stream.feed(data, float(moment))
    return stream.outcome()


def test_token_events_keep_their_arrival_times_and_closing_events_do_not_count() -> None:
    outcome = outcome_of(token(" a"), token(" b"), token(" c"), token("", "length"), USAGE, DONE)
    assert outcome == StreamOutcome([1.0, 2.0, 3.0], 5, 3, "length", None, True)


def test_a_last_event_with_text_and_finish_reason_is_a_token() -> None:
    assert outcome_of(token(" a"), token(" b", "stop"), DONE).token_times == [1.0, 2.0]


def test_a_role_only_chunk_is_not_the_first_token() -> None:
    frames = [chat({"role": "assistant", "content": ""}), chat({"content": "Hi"}), chat({}, "stop")]
    assert outcome_of(*frames, DONE).token_times == [2.0]


def test_comments_and_blank_lines_are_no_events() -> None:
    assert outcome_of(b": ping\n\n", token(" a"), b"\n", token("", "stop")).token_times == [2.0]


def test_an_empty_text_in_the_middle_still_is_a_step() -> None:
    assert outcome_of(token(" a"), token(""), token("é"), token("", "stop"), DONE).token_times == [
        1.0,
        2.0,
        3.0,
    ]


def test_carriage_returns_do_not_matter() -> None:
    frames = [data.replace(b"\n", b"\r\n") for data in (token(" a"), token("", "stop"), DONE)]
    assert outcome_of(*frames) == StreamOutcome([1.0], None, None, "stop", None, True)


def test_a_stream_without_done_and_finish_reason_has_not_ended() -> None:
    assert not outcome_of(token(" a"), token(" b")).ended


def test_an_error_event_is_seen_with_its_code() -> None:
    broken = frame({"error": {"message": "x", "code": "internal_error"}})
    outcome = outcome_of(token(" a"), broken, DONE)
    assert (outcome.error, outcome.token_times) == ("internal_error", [1.0])


def test_a_stream_of_special_tokens_without_text_counts_from_its_first_choice() -> None:
    assert outcome_of(token(""), token(""), token("", "length"), DONE).token_times == [1.0, 2.0]


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_any_cut_of_the_bytes_gives_the_same_outcome(size: int) -> None:
    data = b"".join([token(" a"), token(" é"), token(" c"), token("", "length"), USAGE, DONE])
    stream = EventStream()
    for start in range(0, len(data), size):
        stream.feed(data[start : start + size], 1.0)
    assert stream.outcome() == StreamOutcome([1.0] * 3, 5, 3, "length", None, True)


def test_error_bodies_give_their_code_or_type() -> None:
    assert error_code(b'{"error":{"code":"x","type":"y"}}') == "x"
    assert error_code(b'{"error":{"code":null,"type":"y"}}') == "y"
    assert error_code(b"<html>") is None


def test_usage_of_a_plain_answer_and_of_one_without() -> None:
    assert usage_of(b'{"usage":{"completion_tokens":3}}') == {"completion_tokens": 3}
    assert usage_of(b'{"usage":null}') == {} == usage_of(b"[]")
