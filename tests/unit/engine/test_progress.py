"""Reports of how far sequences are that have no token yet."""

from shoal.protocol.messages import Progress
from shoal.protocol.params import OutputParams
from tests.unit.engine.building import Engine, make_submit

TOLD = OutputParams(progress=True)


def step(engine: Engine, seconds: float = 0.5) -> dict[int, Progress]:
    engine.clock.now += seconds
    outputs = engine.step()
    assert outputs is not None
    return outputs.progress


def test_a_long_prompt_is_reported_until_its_first_token() -> None:
    engine = Engine(token_budget=8)
    engine.add(make_submit(1, [1] * 30, output=TOLD), make_submit(2, [2] * 2))
    told = [step(engine) for _ in range(5)]
    assert [frame[1].num_processed for frame in told if frame] == [8, 16, 24]
    assert all(frame[1].num_tokens == 30 and frame[1].position == 0 for frame in told if frame)
    assert not any(2 in frame for frame in told), "it was not asked for"


def test_one_that_waits_is_told_its_place_in_the_queue() -> None:
    engine = Engine(max_batch_size=1)
    engine.add(*(make_submit(i, [i] * 3, max_tokens=2, output=TOLD) for i in (1, 2, 3)))
    first, second, third = step(engine), step(engine), step(engine)
    assert [first[i].position for i in (2, 3)] == [1, 2]
    assert 1 not in first, "it has its first token"
    assert (second[3].position, second[3].num_processed) == (2, 0)
    assert third[3].position == 1


def test_reports_come_at_most_every_half_second_and_estimate_the_rest() -> None:
    engine = Engine(token_budget=4)
    engine.add(make_submit(1, [1] * 40, output=TOLD))
    told = [step(engine, seconds=0.125) for _ in range(9)]
    assert [bool(frame) for frame in told] == [True, *[False] * 3, True, *[False] * 3, True]
    eta_ms = told[4][1].eta_ms
    assert eta_ms is not None
    assert 0 < eta_ms < 60_000


def test_an_aborted_sequence_is_watched_no_more() -> None:
    engine = Engine(token_budget=4)
    engine.add(make_submit(1, [1] * 40, output=TOLD), make_submit(2, [1] * 40))
    assert step(engine)
    engine.core.abort([1])
    assert not step(engine)
