"""The places of the queue and the wait that it promises, without a server."""

from typing import Any

import pytest

from shoal.errors import InvalidRequest, RateLimited, Unavailable
from shoal.protocol.messages import EngineStats
from shoal.server.admission import Admission, jittered
from shoal.server.keys import ANYONE


def stats(*, tokens_per_s: float, queue_tokens_per_s: float = 0.0) -> EngineStats:
    return EngineStats("m", 0, 0, 0, 0, 0, 0, tokens_per_s, queue_tokens_per_s=queue_tokens_per_s)


def admission(**options: Any) -> Admission:
    values: dict[str, Any] = {
        "max_batch_size": 2, "max_queue": 8, "max_queue_tokens": 10_000, "tenant_max_queue": 0,
    }  # fmt: skip
    speeds = {
        "m": stats(
            tokens_per_s=options.pop("tokens_per_s", 0.0),
            queue_tokens_per_s=options.pop("queue_tokens_per_s", 0.0),
        )
    }
    return Admission(speeds, **{**values, **options})


@pytest.mark.parametrize("tokens_per_s", [100.0, 1000.0, 10_000.0])
def test_the_wait_is_tokens_ahead_over_measured_speed(tokens_per_s: float) -> None:
    place = admission(tokens_per_s=tokens_per_s)
    for _ in range(200):  # answers of 40 tokens teach the estimate
        place.reserve("m", "", 1).release(output_tokens=40)
    reservations = [place.reserve("m", "", 1) for _ in range(10)]
    for reservation in reservations[2:]:
        reservation.add_tokens(100)
    with pytest.raises(Unavailable) as refusal:
        place.reserve("m", "", 1)
    tokens_ahead = 8 * (100 + 40)
    assert refusal.value.retry_after_s == pytest.approx(tokens_ahead / tokens_per_s, rel=0.02)
    assert place.expected_wait_s("m", "") == refusal.value.retry_after_s


def test_the_wait_is_bounded_and_never_unknown() -> None:
    for tokens_per_s in (0.0, 1e-9):
        place = admission(tokens_per_s=tokens_per_s, max_queue=0)
        place.reserve("m", "", 2)
        with pytest.raises(Unavailable) as refusal:
            place.reserve("m", "", 1)
        assert refusal.value.retry_after_s is not None
        assert 0 < refusal.value.retry_after_s <= 120


def test_no_more_is_admitted_than_a_full_batch_serves_within_the_wait() -> None:
    place = admission(queue_tokens_per_s=100.0, max_queue=100, max_wait_s=10.0)
    for _ in range(20):
        place.reserve("m", "", 1).release(output_tokens=50)
    for _ in range(2 + 19):  # two rows, and 50 tokens each at 100 a second
        place.reserve("m", "", 1)
    with pytest.raises(Unavailable) as refusal:
        place.reserve("m", "", 1)
    assert refusal.value.code == "server_is_overloaded"
    assert refusal.value.retry_after_s == pytest.approx(9.5)


def test_a_speed_without_a_queue_refuses_nobody() -> None:
    """That of one row says nothing about a full batch: a first burst is bounded by its number."""
    place = admission(tokens_per_s=1.0, max_wait_s=10.0)
    for _ in range(10):
        place.reserve("m", "", 1)
    with pytest.raises(Unavailable):
        place.reserve("m", "", 1)


def test_what_a_tenant_waits_for_is_its_own_queue() -> None:
    place = admission(queue_tokens_per_s=10.0, max_queue=100, max_wait_s=10.0)
    while place.refusal("m", "heavy", ANYONE) is None:
        place.reserve("m", "heavy", 1)
    assert place.in_flight("m") < 20
    place.reserve("m", "light", 1)


def test_every_tenant_has_its_share_of_a_small_queue_whoever_came_first() -> None:
    place = admission(max_batch_size=4, max_queue=8, max_queue_tokens=120)
    flood = [place.reserve("m", "heavy", 1) for _ in range(12)]
    for reservation in flood:
        reservation.add_tokens(10)
    with pytest.raises(Unavailable):
        place.reserve("m", "heavy", 1)
    lights = [place.reserve("m", f"light {i}", 1) for i in range(9)]
    for light in lights:
        light.add_tokens(12)
    assert place.in_flight("m") == 21
    flood.pop().release()
    with pytest.raises(RateLimited, match="sequences in flight"):
        place.reserve("m", "heavy", 1)


def test_the_shares_of_many_tenants_do_not_outgrow_twice_the_queue() -> None:
    place = admission(max_batch_size=4, max_queue=8)
    admitted = 0
    for i in range(200):
        try:
            place.reserve("m", f"tenant {i}", 1)
        except (Unavailable, RateLimited):
            continue
        admitted += 1
    assert admitted == 24


def test_waits_differ_by_a_fifth_so_that_callers_do_not_return_together() -> None:
    waits = [jittered(10.0) for _ in range(200)]
    assert all(8 <= wait <= 12 for wait in waits)
    assert len({round(wait) for wait in waits}) >= 4
    assert jittered(1000.0) <= 120
    assert jittered(0.0) > 0


def test_a_reservation_gives_its_places_back_once() -> None:
    place = admission()
    with place.reserve("m", "ann", 3) as reservation:
        reservation.add_tokens(7)
        assert place.in_flight("m") == 3
        reservation.started()
        reservation.started()
    reservation.release()
    reservation.release(5)
    assert place.in_flight("m") == 0
    assert place._loads["m"].waiting_tokens == 0


def test_a_tenants_limit_is_its_own() -> None:
    place = admission(tenant_max_queue=2)
    place.reserve("m", "ann", 2)
    with pytest.raises(RateLimited):
        place.reserve("m", "ann", 1)
    with pytest.raises(InvalidRequest):
        place.reserve("m", "bob", 3)
    place.reserve("m", "bob", 2)
    place.reserve("other", "ann", 2)
