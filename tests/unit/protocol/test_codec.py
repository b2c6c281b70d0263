"""Frames on the engine link: what goes in comes out, and nothing broken becomes an object."""

import pytest
from annotated_types import Le
from hypothesis import given
from hypothesis import strategies as st

from shoal.config import Settings
from shoal.protocol import codec
from shoal.protocol.messages import (
    Abort,
    EngineConfig,
    EngineFailed,
    EngineStats,
    Finished,
    Heartbeat,
    Loaded,
    LoadedModel,
    Loading,
    ModelSource,
    Ready,
    Shutdown,
    Started,
    StepOutputs,
    Submit,
    TokenLogprobs,
)
from shoal.protocol.params import FinishReason, OutputParams, SamplingParams, StopParams
from shoal.protocol.trace import TokenTrace, TraceStep

STATS = EngineStats("m", 1, 2, 3, 4, 5, 6, 7.5)
TO_ENGINE = [
    EngineConfig((ModelSource("m", "p"),), dtype="float32"),
    Submit(
        7,
        "m",
        [1, 2, 3],
        SamplingParams(seed=2**64 - 1, logit_bias=((5, -100.0),)),
        StopParams(9, end_token_ids=(2,), deadline_s=1.5),
        OutputParams(logprobs=3, prompt_logprobs=0),
        tenant="é",
        cache_salt="s",
    ),
    Abort([1, 2]),
    Shutdown(),
]
FROM_ENGINE = [
    Loading("m", 0.5),
    Loaded(LoadedModel("m", 261, 64, 1000, "float32", "cpu", "torch", "00")),
    Ready(),
    StepOutputs(
        "m", [1], [2], 1, 1, 0.01, STATS,
        logprobs={1: TokenLogprobs(2, -0.25, [2, 3], [-0.25, -1.5])},
        prompt_logprobs={1: [None, TokenLogprobs(4, -1.0, [], [])]},
        started={1: Started(16, 0.1, 0.2)},
        finished={1: Finished(FinishReason.STOP, 2), 5: Finished(FinishReason.LENGTH, "max_time")},
        traces={
            1: TokenTrace(
                2, -0.25, 1, 1.5, [2], [-0.25], [TraceStep("top_k", 9, 0.5)], "top_k", 0.75, [4],
                [-2.0],
            )
        },
        cpu_s=0.5, seq_cpu_s={1: 1.5, 5: 0.0}, embeddings={5: b"\x00\x00\x80?"},
    ),
    Heartbeat([STATS]),
    EngineFailed("invalid_model_folder", "no such folder"),
]  # fmt: skip


def bodies(data: bytes) -> list[bytes]:
    return list(codec.FrameBuffer().feed(data))


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda m: type(m).__name__)
def test_a_message_to_the_engine_arrives_as_it_was_sent(message: object) -> None:
    (body,) = bodies(codec.encode(message))  # type: ignore[arg-type]
    assert codec.decode_to_engine(body) == message


@pytest.mark.parametrize("message", FROM_ENGINE, ids=lambda m: type(m).__name__)
def test_a_message_from_the_engine_arrives_as_it_was_sent(message: object) -> None:
    (body,) = bodies(codec.encode(message))  # type: ignore[arg-type]
    assert codec.decode_from_engine(body) == message


@given(st.lists(st.sampled_from(TO_ENGINE), max_size=6), st.data())
def test_frames_are_found_however_the_socket_cuts_them(messages: list[object], data: st.DataObject):
    stream = b"".join(map(codec.encode, messages))  # type: ignore[arg-type]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    buffer, found = codec.FrameBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += [codec.decode_to_engine(body) for body in buffer.feed(stream[start:end])]
    assert found == messages


def test_a_direction_does_not_take_the_messages_of_the_other() -> None:
    for message in FROM_ENGINE:
        (body,) = bodies(codec.encode(message))  # type: ignore[arg-type]
        with pytest.raises(codec.FrameError):
            codec.decode_to_engine(body)


def test_another_version_is_refused() -> None:
    frame = bytearray(codec.encode(Shutdown()))
    frame[4] += 1
    with pytest.raises(codec.FrameError, match="version"):
        bodies(bytes(frame))


def test_a_frame_announced_as_too_long_is_refused_before_it_arrives() -> None:
    header = (codec.MAX_FRAME_BYTES + 1).to_bytes(4, "big") + bytes((codec.VERSION,))
    with pytest.raises(codec.FrameError, match="exceeds"):
        bodies(header)


def test_a_message_that_makes_too_long_a_frame_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_BYTES", 1000)
    with pytest.raises(codec.FrameError, match="exceeds"):
        codec.encode(Abort(list(range(2000))))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_frame_error(body: bytes) -> None:
    for decode in (codec.decode_to_engine, codec.decode_from_engine):
        try:
            decode(body)
        except codec.FrameError:
            pass


@given(st.sampled_from(TO_ENGINE), st.data())
def test_a_damaged_frame_is_a_message_or_a_frame_error(message: object, data: st.DataObject):
    frame = bytearray(codec.encode(message))  # type: ignore[arg-type]
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        for body in bodies(bytes(frame)):
            codec.decode_to_engine(body)
    except codec.FrameError:
        pass


@pytest.mark.parametrize("position", range(8))
def test_a_field_of_another_type_is_refused(position: int) -> None:
    """Integers, names, lists and nested records are checked one by one."""
    import msgspec

    fields = msgspec.msgpack.decode(bodies(codec.encode(TO_ENGINE[1]))[0])  # type: ignore[arg-type]
    fields[1 + position] = {"not": "this"}
    with pytest.raises(codec.FrameError):
        codec.decode_to_engine(msgspec.msgpack.encode(fields))


def test_the_vectors_of_the_largest_step_fit_a_frame() -> None:
    """As many rows as the setting allows, of 4096 numbers each."""
    most = max(
        bound.le
        for bound in Settings.model_fields["max_batch_size"].metadata
        if isinstance(bound, Le)
    )
    vectors = {i: bytes(4 * 4096) for i in range(most)}
    finished = {i: Finished(FinishReason.LENGTH) for i in vectors}
    started = {i: Started(0, 0.1, 0.2) for i in vectors}
    outputs = StepOutputs(
        "m", [], [], most, most, 0.1, STATS, started=started, finished=finished, embeddings=vectors
    )
    (body,) = bodies(codec.encode(outputs))
    assert codec.decode_from_engine(body) == outputs
