"""The engine as a real child process on fake runners: start, frames, ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from shoal.engine.link import Link
from shoal.protocol import codec
from shoal.protocol.messages import (
    Abort,
    EngineConfig,
    EngineFailed,
    FromEngine,
    Heartbeat,
    Loaded,
    LoadFailed,
    Loading,
    ModelSource,
    Ready,
    Shutdown,
    StepOutputs,
)
from shoal.protocol.params import OutputParams, SamplingParams
from tests.fakes.fake_runner import solo_output
from tests.unit.engine.building import Heard, make_submit

SCRIPT = Path(__file__).parents[2] / "fakes" / "engine_process.py"
SEED_0 = SamplingParams(seed=0)
Frame = TypeVar("Frame")


class Child:
    """The parent's side of an engine process."""

    def __init__(self, config: EngineConfig | bytes) -> None:
        self.socket, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self.socket.settimeout(10)
        self.buffer = codec.FrameBuffer()
        self.frames: list[FromEngine] = []
        self.socket.sendall(config if isinstance(config, bytes) else codec.encode(config))

    def send(self, *messages: object) -> None:
        self.socket.sendall(b"".join(codec.encode(message) for message in messages))

    def next(self) -> FromEngine:
        while not self.frames:
            data = self.socket.recv(1 << 16)
            if not data:
                raise EOFError(self.process.communicate(timeout=5)[1].decode())
            self.frames += map(codec.decode_from_engine, self.buffer.feed(data))
        return self.frames.pop(0)

    def until(self, kind: type[Frame]) -> Frame:
        while not isinstance(frame := self.next(), kind):
            pass
        return frame

    def hear(self, *seq_ids: int) -> Heard:
        """All about these sequences until each has had its last word."""
        heard = Heard()
        while not heard.finished.keys() >= set(seq_ids):
            heard.take(self.until(StepOutputs))
        return heard

    def cpu_ticks(self) -> int:
        """Processor time it used, in hundredths of a second."""
        numbers = Path(f"/proc/{self.process.pid}/stat")
        if not numbers.exists():
            pytest.skip("needs /proc")
        return sum(map(int, numbers.read_text().split()[13:15]))

    def falls_asleep(self, within_s: float = 20.0) -> bool:
        """Does it come to use next to no processor time for half a second?"""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            before = self.cpu_ticks()
            time.sleep(0.5)
            if self.cpu_ticks() - before <= 2:
                return True
        return False

    def exit_code(self, within_s: float) -> int:
        return self.process.wait(timeout=within_s)


def config(*models: tuple[str, str], **fields: object) -> EngineConfig:
    sources = tuple(ModelSource(name, path) for name, path in models or (("fake", ""),))
    fields.setdefault("kv_cache_bytes", 64 << 10)
    return EngineConfig(models=sources, **{"heartbeat_s": 0.1, **fields})


@contextmanager
def child(*models: tuple[str, str], ready: bool = True, **fields: object) -> Iterator[Child]:
    engine = Child(config(*models, **fields))
    try:
        if ready:
            engine.until(Ready)
        yield engine
    finally:
        engine.socket.close()
        engine.process.kill()
        engine.process.communicate(timeout=5)


def test_it_reports_the_load_of_each_model_in_order_and_then_ready() -> None:
    with child(("a", ""), ("b", "max_model_len=99"), ready=False) as engine:
        told: list[FromEngine] = []
        while not (told and isinstance(told[-1], Ready)):
            told.append(engine.next())
        loading = [(f.model, f.progress) for f in told if isinstance(f, Loading)]
        assert loading == sorted(loading)
        assert loading[-1] == ("b", 1.0)
        loaded = [f.model for f in told if isinstance(f, Loaded)]
        assert [(m.name, m.max_model_len) for m in loaded] == [("a", 512), ("b", 99)]


def test_a_model_is_served_while_the_next_one_loads() -> None:
    with child(("first", ""), ("slow", "load_s=60"), ready=False) as engine:
        assert engine.until(Loaded).model.name == "first"
        engine.send(make_submit(1, model="first", max_tokens=20))
        assert engine.hear(1).tokens[1] == solo_output([1, 2, 3], 20, SEED_0)
        assert [stats.model for stats in engine.until(Heartbeat).stats] == ["first"]
        engine.send(Shutdown())
        assert engine.exit_code(5) == 0


def test_a_model_that_may_fail_stops_no_other_and_leaves_them_its_memory() -> None:
    sources = (
        ModelSource("bad", "missing=1", may_fail=True),
        ModelSource("good", "", may_fail=True),
    )
    engine = Child(EngineConfig(models=sources, kv_cache_bytes=64 << 10, heartbeat_s=0.1))
    try:
        failed = engine.until(LoadFailed)
        assert (failed.model, failed.message) == ("bad", "model bad: config.json is missing")
        assert engine.until(Loaded).model.name == "good"
        engine.until(Ready)
        (stats,) = engine.until(Heartbeat).stats
        assert stats.num_blocks == 64
    finally:
        engine.socket.close()
        engine.process.kill()
        engine.process.communicate(timeout=5)


def test_when_every_model_fails_the_process_ends() -> None:
    sources = tuple(ModelSource(name, "missing=1", may_fail=True) for name in ("a", "b"))
    engine = Child(EngineConfig(models=sources, heartbeat_s=0.1))
    try:
        assert "model b: config.json is missing" in engine.until(EngineFailed).message
        assert engine.exit_code(2.0) == 3
    finally:
        engine.socket.close()
        engine.process.communicate(timeout=5)


def test_a_submitted_sequence_gives_its_tokens_and_one_frame_per_step() -> None:
    with child() as engine:
        engine.send(make_submit(1, max_tokens=20), make_submit(2, [5, 6], max_tokens=20))
        heard = engine.hear(1, 2)
        assert heard.tokens[1] == solo_output([1, 2, 3], 20, SEED_0)
        assert heard.tokens[2] == solo_output([5, 6], 20, SEED_0)
        assert len(heard.frames) in (20, 21)
        engine.send(Shutdown())
        assert engine.exit_code(5) == 0


def test_a_sequence_for_a_model_that_still_loads_is_refused() -> None:
    with child(("fake", "load_s=60"), ready=False) as engine:
        engine.until(Loading)
        engine.send(make_submit(1))
        assert engine.hear(1).finished[1].error_code == "model_not_found"


def test_an_abort_ends_a_sequence_in_the_running_engine() -> None:
    with child(("fake", "step_s=0.01")) as engine:
        engine.send(make_submit(1, max_tokens=400), make_submit(2, max_tokens=30))
        engine.until(StepOutputs)
        engine.send(Abort([1]))
        heard = engine.hear(2)
        assert heard.frames[-1].stats.num_running == 0
        assert 1 not in heard.finished


def test_heartbeats_come_while_idle_and_carry_the_numbers_of_each_model() -> None:
    with child(("a", ""), ("b", "")) as engine:
        started = time.monotonic()
        beats = [engine.until(Heartbeat) for _ in range(3)]
        assert 0.25 < time.monotonic() - started < 10
        assert [stats.model for stats in beats[0].stats] == ["a", "b"]


def test_idle_it_uses_no_processor_time() -> None:
    with child() as engine:
        engine.send(make_submit(1))
        engine.hear(1)
        engine.until(Heartbeat)
        assert engine.falls_asleep()


@pytest.mark.parametrize("prompt", [None, [7], [8]], ids=["idle", "stepping", "in a long step"])
def test_it_exits_when_the_parent_is_gone(prompt: list[int] | None) -> None:
    with child(("fake", "step_s=0.01&hang_token=8")) as engine:
        if prompt is not None:
            engine.send(make_submit(1, prompt, max_tokens=500))
            time.sleep(0.2)
        engine.socket.close()
        engine.exit_code(2.0)


def test_it_exits_when_the_parent_is_gone_during_a_load() -> None:
    with child(("fake", "load_s=60"), ready=False) as engine:
        engine.until(Loading)
        engine.socket.close()
        engine.exit_code(2.0)


def test_signals_to_the_whole_group_are_left_to_the_parent() -> None:
    with child() as engine:
        engine.process.send_signal(signal.SIGINT)
        engine.process.send_signal(signal.SIGTERM)
        engine.send(make_submit(1))
        engine.hear(1)
        engine.socket.close()
        assert engine.exit_code(2.0) == 0


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        ("missing=1", "invalid_model_folder", "model bad: config.json is missing"),
        ("broken=1", "internal_error", "model bad could not be loaded"),
    ],
)
def test_a_model_that_does_not_load_is_named_and_ends_the_process(
    path: str, code: str, words: str
) -> None:
    with child(("good", ""), ("bad", path), ready=False) as engine:
        failed = engine.until(EngineFailed)
        assert failed.code == code
        assert words in failed.message
        assert engine.exit_code(2.0) == 3


@pytest.mark.parametrize(
    "frame",
    [codec.encode(Shutdown()), b"\x00\x00\x00\x01\x01\xc1", b"\xff\xff\xff\xff\x01", b"GET / HTTP"],
    ids=["not the config", "not msgpack", "too long", "not a frame"],
)
def test_a_broken_first_frame_ends_the_process(frame: bytes) -> None:
    engine = Child(frame)
    assert engine.until(EngineFailed).code == "invalid_frame"
    assert engine.exit_code(2.0) == 1
    engine.process.communicate()
    engine.socket.close()


def test_a_failed_step_and_a_failed_row_do_not_end_the_process() -> None:
    with child(("fake", "raise_token=9&nan_token=8")) as engine:
        engine.send(make_submit(1, [9, 1]))
        assert engine.hear(1).finished[1].error_code == "internal_error"
        engine.send(make_submit(2, [8, 1]), make_submit(3))
        heard = engine.hear(2, 3)
        assert heard.finished[2].error_code == "numerical_error"
        assert heard.tokens[3] == solo_output([1, 2, 3], 4, SEED_0)


def test_a_crash_is_seen_as_end_of_file_and_leaves_a_trace() -> None:
    with child(("fake", "crash_token=9")) as engine:
        engine.send(make_submit(1, [9, 1]))
        with pytest.raises(EOFError, match="Fatal Python error: Aborted"):
            engine.hear(1)
        assert engine.exit_code(5) == -signal.SIGABRT


def test_a_parent_that_reads_late_stops_nothing_and_loses_nothing() -> None:
    """The answers are longer than what the sockets hold, and nobody reads until all ended."""
    with child(kv_cache_bytes=8 << 20, block_size=64) as engine:
        wanted = OutputParams(prompt_logprobs=0)
        ids = range(1, 61)
        engine.send(*(make_submit(i, [i] * 4000, max_tokens=1, output=wanted) for i in ids))
        assert engine.falls_asleep(), "it spins while it cannot send"
        heard = engine.hear(*ids)
        told = [len(p) for frame in heard.frames for p in frame.prompt_logprobs.values()]
        assert told == [4000] * 60
        assert sum(len(codec.encode(frame)) for frame in heard.frames) > 5 << 19


def test_the_link_keeps_what_the_socket_does_not_take_and_still_reads() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = Link(ours)
        sent = [Loading("x" * 10_000, i / 1000) for i in range(1000)]
        for message in sent:
            link.send(message)
        assert link.num_unsent_bytes > 1 << 20
        theirs.sendall(codec.encode(Abort([7])))
        assert link.receive(0.0) == [Abort([7])]
        received, buffer = [], codec.FrameBuffer()
        while len(received) < len(sent):
            received += map(codec.decode_from_engine, buffer.feed(theirs.recv(1 << 16)))
            link.receive(0.0)
        assert received == sent
        assert link.num_unsent_bytes == 0


def test_two_models_share_one_memory_budget_evenly() -> None:
    with child(("a", ""), ("b", ""), kv_cache_bytes=100 << 10) as engine:
        assert [stats.num_blocks for stats in engine.until(Heartbeat).stats] == [50, 50]


def test_it_inherits_no_other_socket() -> None:
    with child() as engine:
        fds = Path(f"/proc/{engine.process.pid}/fd")
        if not fds.exists():
            pytest.skip("needs /proc")
        links = [os.readlink(fds / fd) for fd in os.listdir(fds)]
        assert sum(link.startswith("socket:") for link in links) == 1
