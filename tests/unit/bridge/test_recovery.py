"""What is run again after the end of an engine, in which order, and what never again."""

import signal

import pytest

from shoal.bridge.recovery import MAX_HELD_S, REMEMBERED_S, Recovery
from shoal.errors import EngineRestarted, PoisonRequest, RequestTimeout
from shoal.protocol.messages import Finished, Started, Submit
from shoal.protocol.params import FinishReason
from tests.unit.bridge.building import step_outputs
from tests.unit.engine.building import Clock, make_submit

SEGFAULT = -signal.SIGSEGV
KILLED = -signal.SIGKILL
STARTED = Started(0, 0.0, 0.0)
DONE = Finished(FinishReason.LENGTH)


def always(_: Submit) -> bool:
    return True


def ids(submits: list[Submit]) -> list[int]:
    return [submit.seq_id for submit in submits]


class Crashed:
    """A recovery whose engine ended with these sequences."""

    def __init__(self, *submits: Submit, started: tuple[int, ...] = (), code: int = KILLED) -> None:
        self.clock = Clock()
        self.recovery = Recovery(self.clock)
        for submit in submits:
            self.recovery.submitted(submit)
        self.start(*started)
        self.failed = self.recovery.engine_ended(code)

    def start(self, *seq_ids: int) -> bool:
        return self.recovery.heard(step_outputs([], [], started=dict.fromkeys(seq_ids, STARTED)))

    def finish(self, *seq_ids: int) -> bool:
        return self.recovery.heard(step_outputs([], [], finished=dict.fromkeys(seq_ids, DONE)))


def test_what_had_produced_nothing_is_held_and_sent_one_after_the_other() -> None:
    crash = Crashed(*(make_submit(i, [i]) for i in range(1, 5)), started=(2,))
    assert [type(error) for error in crash.failed.values()] == [EngineRestarted]
    assert list(crash.failed) == [2]
    recovery = crash.recovery
    assert ids(recovery.to_send(always)) == [1]
    assert ids(recovery.to_send(always)) == [], "before the one before has started"
    assert crash.start(1)
    assert ids(recovery.to_send(always)) == [3]
    assert recovery.drop([3])
    assert ids(recovery.to_send(always)) == [4]
    assert not crash.finish(4), "nobody is left"
    assert not recovery.has_held


def test_models_and_adapters_wait_for_themselves_only() -> None:
    crash = Crashed(make_submit(1, model="a"), make_submit(2, model="b"), make_submit(3, model="a"))
    recovery = crash.recovery
    assert ids(recovery.to_send(lambda submit: submit.model == "b")) == [2]
    assert ids(recovery.to_send(always)) == [1]
    failed = recovery.unsendable(lambda submit: submit.model == "b")
    assert list(failed) == [3]


def test_one_that_is_with_two_ends_is_refused_and_those_still_held_are_not() -> None:
    crash = Crashed(*(make_submit(i, [i]) for i in (1, 2, 3)), code=SEGFAULT)
    recovery = crash.recovery
    assert ids(recovery.to_send(always)) == [1]
    failed = recovery.engine_ended(SEGFAULT)
    assert list(failed) == [1]
    assert isinstance(failed[1], PoisonRequest)
    assert ids(recovery.to_send(always)) == [2]


def test_the_same_request_again_is_refused_for_a_while_whatever_its_seed() -> None:
    crash = Crashed(make_submit(1, [7], seed=1), started=(1,), code=SEGFAULT)
    recovery, clock = crash.recovery, crash.clock
    recovery.submitted(make_submit(2, [7], seed=2))
    assert isinstance(recovery.engine_ended(SEGFAULT)[2], PoisonRequest)
    with pytest.raises(PoisonRequest):
        recovery.submitted(make_submit(3, [7], seed=3))
    recovery.submitted(make_submit(4, [8]))
    clock.now += REMEMBERED_S
    recovery.submitted(make_submit(5, [7]))


def test_copies_of_one_request_at_one_crash_are_no_proof_and_are_refused_with_the_second() -> None:
    crash = Crashed(*(make_submit(i, [7]) for i in (1, 2, 3)), code=SEGFAULT)
    assert not crash.failed
    assert ids(crash.recovery.to_send(always)) == [1]
    failed = crash.recovery.engine_ended(SEGFAULT)
    assert {seq_id: type(error) for seq_id, error in failed.items()} == dict.fromkeys(
        (1, 2, 3), PoisonRequest
    )
    assert not crash.recovery.has_held


def test_one_that_ends_well_is_no_suspect_any_more() -> None:
    crash = Crashed(make_submit(1, [7]), started=(1,), code=SEGFAULT)
    crash.recovery.submitted(make_submit(2, [7]))
    crash.finish(2)
    crash.recovery.submitted(make_submit(3, [7]))
    assert not crash.recovery.engine_ended(SEGFAULT)


def test_kills_from_outside_say_nothing_about_what_is_sent_again() -> None:
    crash = Crashed(make_submit(1, [7]), started=(1,))
    for seq_id in range(2, 9):
        crash.recovery.submitted(make_submit(seq_id, [7]))
        crash.start(seq_id)
        assert isinstance(crash.recovery.engine_ended(KILLED)[seq_id], EngineRestarted)


def test_a_held_one_keeps_its_deadline_and_waits_no_longer_than_it_may() -> None:
    timed = make_submit(1, deadline_s=10.0)
    crash = Crashed(timed, make_submit(2), make_submit(3, deadline_s=4.0))
    recovery, clock = crash.recovery, crash.clock
    clock.now += 4.0
    assert {i: type(error) for i, error in recovery.overdue().items()} == {3: RequestTimeout}
    (sent,) = recovery.to_send(always)
    assert sent.stop.deadline_s == 6.0
    clock.now += MAX_HELD_S
    assert {i: type(error) for i, error in recovery.overdue().items()} == {2: EngineRestarted}
    assert not recovery.has_held
