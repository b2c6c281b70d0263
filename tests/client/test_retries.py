"""What is sent again, when, and after how long. No test here waits."""

from email.utils import formatdate

import pytest

from shoal.client import (
    AuthenticationFailed,
    ConnectionFailed,
    Error,
    Overloaded,
    RateLimited,
    StatusError,
    Timeout,
    Timeouts,
)
from shoal.client._retry import RETRIED_STATUSES, backoff_s, retry_after_s
from shoal.client.testing import (
    DONE,
    Canned,
    FakeClock,
    Fault,
    MockServer,
    Pause,
    completion_event,
    json_reply,
)
from tests.client.both import Sdk, both

WALL = 1.76e9

RETRY_AFTER = [
    ({"retry-after": "5"}, 5.0),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": "1.5"}, 1.5),
    ({"retry-after": " 7 "}, 7.0),
    ({"retry-after": "120"}, 120.0),
    ({"retry-after": "121"}, 121.0),
    ({"retry-after-ms": "250"}, 0.25),
    ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
    ({"retry-after": formatdate(WALL + 30, usegmt=True)}, 30.0),
    ({"retry-after": formatdate(WALL - 30, usegmt=True)}, 0.0),
    ({"retry-after": formatdate(WALL + 12)}, 12.0),  # "-0000": no zone, so UTC
    ({"retry-after": "-1"}, None),
    ({"retry-after": "nan"}, None),
    ({"retry-after": "inf"}, None),
    ({"retry-after": "later"}, None),
    ({"retry-after": "Fri, 99 Foo 9999 99:99:99 GMT"}, None),
    ({"retry-after": ""}, None),
    ({}, None),
]


@pytest.mark.parametrize(("headers", "expected"), RETRY_AFTER)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers, FakeClock(wall=WALL).as_clock()) == expected


@pytest.mark.parametrize(
    ("num_retries", "ceiling"), [(0, 0.5), (1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0),
                                 (5000, 8.0)]
)  # fmt: skip
def test_backoff_is_jittered_over_the_whole_range_up_to_eight_seconds(
    num_retries: int, ceiling: float
) -> None:
    for chance in (0.0, 0.25, 0.999):
        wait_s = backoff_s(num_retries, FakeClock(chance=chance).as_clock())
        assert wait_s == pytest.approx(chance * ceiling)


@both
@pytest.mark.parametrize("status", sorted(RETRIED_STATUSES))
async def test_statuses_that_may_pass_are_retried(sdk: Sdk, status: int) -> None:
    server = MockServer()
    server.error(status, "some_code")
    server.completion("ok")
    result = await sdk.do(sdk.client(server).completions.create("x"))
    assert result.text == "ok"
    assert server.clock.sleeps == [0.25]  # chance 0.5 of at most 0.5 s


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 422, 501, 505])
async def test_other_statuses_are_not_retried(sdk: Sdk, status: int) -> None:
    server = MockServer()
    server.error(status, "some_code")
    with pytest.raises(StatusError) as caught:
        await sdk.do(sdk.client(server).completions.create("x"))
    assert caught.value.status == status
    assert len(server.requests) == 1
    assert server.clock.sleeps == []


@both
async def test_the_server_can_forbid_and_force_a_retry(sdk: Sdk) -> None:
    server = MockServer()
    client = sdk.client(server)
    server.error(503, "server_is_overloaded", headers={"X-Should-Retry": "false"})
    with pytest.raises(Overloaded):
        await sdk.do(client.completions.create("x"))
    assert len(server.requests) == 1

    server.error(400, "odd", headers={"x-should-retry": "true"})
    server.completion("ok")
    assert (await sdk.do(client.completions.create("x"))).text == "ok"


@both
async def test_the_wait_is_what_the_server_asks_for(sdk: Sdk) -> None:
    server = MockServer()
    server.error(503, "server_is_overloaded", headers={"Retry-After": "3"})
    server.error(429, "rate_limit_exceeded", headers={"retry-after-ms": "1500", "Retry-After": "2"})
    server.completion("ok")
    await sdk.do(sdk.client(server).completions.create("x"))
    assert server.clock.sleeps == [3.0, 1.5]


@both
async def test_a_wait_of_more_than_two_minutes_is_given_up(sdk: Sdk) -> None:
    server = MockServer()
    server.error(429, "rate_limit_exceeded", headers={"Retry-After": "121"})
    with pytest.raises(RateLimited) as caught:
        await sdk.do(sdk.client(server).completions.create("x"))
    assert caught.value.retry_after == 121.0
    assert server.clock.sleeps == []


@both
async def test_the_last_error_is_raised_when_retries_are_used_up(sdk: Sdk) -> None:
    server = MockServer()
    server.error(500, "internal_error")
    server.error(502, "bad_gateway")
    server.error(503, "server_is_overloaded")
    with pytest.raises(Overloaded):
        await sdk.do(sdk.client(server).completions.create("x"))
    assert server.clock.sleeps == [0.25, 0.5]


@both
async def test_attempts_carry_their_number_and_one_request_id(sdk: Sdk) -> None:
    server = MockServer()
    server.fail(Fault.LOST)
    server.error(503, "server_is_overloaded")
    server.completion("ok")
    await sdk.do(sdk.client(server).completions.create("x"))
    assert [seen.headers["x-retry-count"] for seen in server.requests] == ["0", "1", "2"]
    assert len({seen.headers["x-request-id"] for seen in server.requests}) == 1
    bodies = [seen.json for seen in server.requests]
    assert bodies == [bodies[0]] * 3


@both
@pytest.mark.parametrize("max_retries", [0, 1, 5])
async def test_max_retries_is_the_number_of_further_attempts(sdk: Sdk, max_retries: int) -> None:
    server = MockServer()
    for _ in range(max_retries + 1):
        server.fail(Fault.CONNECT)
    with pytest.raises(ConnectionFailed):
        await sdk.do(sdk.client(server, max_retries=max_retries).completions.create("x"))
    assert len(server.requests) == max_retries + 1


@both
@pytest.mark.parametrize("fault", [Fault.CONNECT, Fault.CONNECT_TIMEOUT, Fault.LOST])
async def test_lost_connections_are_retried(sdk: Sdk, fault: Fault) -> None:
    server = MockServer()
    server.fail(fault)
    server.completion("ok")
    assert (await sdk.do(sdk.client(server).completions.create("x"))).text == "ok"


@both
async def test_a_connection_lost_inside_a_plain_body_is_retried(sdk: Sdk) -> None:
    server = MockServer()
    server.add(Canned(parts=(b'{"id":', Fault.LOST)))
    server.completion("ok")
    assert (await sdk.do(sdk.client(server).completions.create("x"))).text == "ok"


@both
async def test_a_silent_server_is_not_asked_twice(sdk: Sdk) -> None:
    server = MockServer()
    server.fail(Fault.READ_TIMEOUT)
    with pytest.raises(Timeout):
        await sdk.do(sdk.client(server).completions.create("x"))
    assert len(server.requests) == 1


@both
async def test_waiting_ends_with_the_total_time(sdk: Sdk) -> None:
    server = MockServer()
    server.error(503, "server_is_overloaded", headers={"Retry-After": "60"})
    server.error(503, "server_is_overloaded", headers={"Retry-After": "60"})
    client = sdk.client(server, max_retries=9, timeout=Timeouts(total_s=100.0))
    with pytest.raises(Overloaded):
        await sdk.do(client.completions.create("x"))
    assert server.clock.sleeps == [60.0]  # a second one would end after the total


@both
async def test_a_stream_is_retried_only_before_its_first_byte(sdk: Sdk) -> None:
    server = MockServer()
    server.error(503, "server_is_overloaded")
    server.stream(Fault.LOST)
    server.completion_stream("a", "b")
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    assert (await sdk.do(stream.final())).text == "ab"
    assert len(server.requests) == 3

    server.stream(completion_event("a"), Fault.LOST)
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    with pytest.raises(Error):
        await sdk.do(stream.final())
    assert len(server.requests) == 4


@both
async def test_an_error_inside_a_stream_is_not_retried(sdk: Sdk) -> None:
    server = MockServer()
    error = {"type": "service_unavailable_error", "code": "server_is_overloaded", "message": "no"}
    server.stream({"error": error}, DONE)
    stream = await sdk.do(sdk.client(server).completions.create("x", stream=True))
    with pytest.raises(Overloaded):
        await sdk.do(stream.final())
    assert len(server.requests) == 1


@both
async def test_waiting_until_ready_polls_through_refusals_and_loading(sdk: Sdk) -> None:
    server = MockServer()
    server.fail(Fault.CONNECT)
    server.error(503, "model_loading", headers={"Retry-After": "60"})
    server.reply({"status": "loading", "models": {}}, status=503)
    server.reply({"status": "ok"})
    await sdk.do(sdk.client(server).wait_until_ready(10.0))
    assert {seen.path for seen in server.requests} == {"/readyz"}
    assert server.clock.sleeps == [0.05, 0.1, 0.2]


@both
async def test_waiting_until_ready_ends_in_time(sdk: Sdk) -> None:
    server = MockServer(lambda seen: json_reply({"status": "loading"}, status=503))
    with pytest.raises(Timeout, match="not ready within 3 s"):
        await sdk.do(sdk.client(server).wait_until_ready(3.0))
    assert sum(server.clock.sleeps) == pytest.approx(3.0)
    # Near the end the limit of a single attempt is what is left.
    assert server.requests[-1].timeout["read"] < 1.0  # type: ignore[operator]


@both
async def test_waiting_until_ready_gives_up_where_waiting_cannot_help(sdk: Sdk) -> None:
    server = MockServer()
    server.error(401, "invalid_api_key")
    with pytest.raises(AuthenticationFailed):
        await sdk.do(sdk.client(server).wait_until_ready(3.0))
    assert server.clock.sleeps == []


@both
async def test_a_slow_body_ends_with_the_total_time(sdk: Sdk) -> None:
    server = MockServer()
    server.add(Canned(parts=(b"{", Pause(20.0), b" ", Pause(20.0), b"}")))
    with pytest.raises(Timeout) as caught:
        await sdk.do(sdk.client(server, timeout=30.0).completions.create("x"))
    assert caught.value.phase == "total"
    assert server.requests[0].closed
