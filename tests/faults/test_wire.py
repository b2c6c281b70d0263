"""What comes in is bounded before it is a request, whichever parser reads it."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.faults.measured import Measured
from tests.faults.wire_server import Answer, chunked, post, wire
from tests.http.building import Gate, nothing_left, until

PARSERS = pytest.mark.parametrize("parser", ["httptools", "h11"])
BODY = {"prompt": "x", "max_tokens": 3}
PAYLOAD = json.dumps(BODY).encode()
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
END = b"Connection: close\r\n\r\n"


def is_refused(answer: Answer, status: int, code: str) -> None:
    """In the documented shape, and the connection is over."""
    assert answer.status == status, answer.raw[:300]
    assert answer.code == code
    assert "connection: close" in answer.head
    assert "content-type: application/json" in answer.head
    assert "x-request-id: " in answer.head


@PARSERS
async def test_heads_have_limits_on_their_raw_bytes(tmp_path: Path, parser: str) -> None:
    async with wire(tmp_path, parser) as server:
        big, many = b"A: " + b"b" * 40_000 + b"\r\n", b"A: b\r\n" * 120
        cases = {
            GET + big + END: (431, "headers_too_large"),
            GET + b"A: " + b"b" * 33_000 + b"\r\n" + END: (431, "headers_too_large"),
            GET + many + END: (431, "headers_too_large"),
            GET + b"A: b\r\n" * 50_000 + END: (431, "headers_too_large"),
            GET + b"A: " + b"b" * (3 << 20) + b"\r\n" + END: (431, "headers_too_large"),
            b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n" + END: (414, "url_too_long"),
            b"GET /" + b"a" * 65_000 + b" HTTP/1.1\r\nHost: a\r\n" + END: (414, "url_too_long"),
        }
        for request, (status, code) in cases.items():
            answer = await server.send(request)
            if answer.raw or len(request) < 1 << 20:  # a reset is allowed while the client sends
                is_refused(answer, status, code)
            assert answer.seconds < 3
        for request in (
            GET + b"A: " + b"b" * 30_000 + b"\r\n" + END,
            GET + b"A: b\r\n" * 97 + END,
            b"GET /livez?" + b"a" * 8_000 + b" HTTP/1.1\r\nHost: localhost\r\n" + END,
            b"GET /livez?" + b"a" * 8_000 + GET[10:] + b"A: " + b"b" * 32_000 + b"\r\n" + END,
        ):
            assert (await server.send(request)).status == 200
        # One byte at a time changes nothing.
        dripped = GET + b"A: b\r\n" * 110 + END
        answer = await server.send(*(dripped[at : at + 1] for at in range(len(dripped))))
        is_refused(answer, 431, "headers_too_large")


@PARSERS
async def test_what_two_servers_could_read_differently_is_refused(
    tmp_path: Path, parser: str
) -> None:
    whole = chunked(PAYLOAD, 100)
    async with wire(tmp_path, parser) as server:
        cases = [
            post(whole, f"Content-Length: {len(whole)}", "Transfer-Encoding: chunked"),
            post(PAYLOAD, f"Content-Length: {len(PAYLOAD)}", f"Content-Length: {len(PAYLOAD)}"),
            post(PAYLOAD, f"Content-Length: {len(PAYLOAD)}", "Content-Length: 3"),
            post(PAYLOAD, "X: a\r\n folded", f"Content-Length: {len(PAYLOAD)}"),
            post(whole, "Transfer-Encoding: xchunked"),
            post(whole, "Transfer-Encoding: identity, chunked"),
            post(whole, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
            post(whole, "Transfer-Encoding: chunked", version="1.0"),
            post(whole, "Transfer-Encoding : chunked"),
            post(PAYLOAD, f"Content-Length: +{len(PAYLOAD)}"),
            post(PAYLOAD, "Content-Length: -1"),
            post(PAYLOAD, "Host: other"),
            b"GET /livez HTTP/1.1\r\nHost: localhost\r\nA\x00b: c\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            post(b"zz\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        ]
        for request in cases:
            answer = await server.send(request)
            is_refused(answer, 400, "invalid_http")
        answer = await server.send(b"GET /livez HTTP/3.7\r\nHost: localhost\r\n\r\n")
        assert answer.status in (400, 505)
        assert server.runner.num_steps == 0
        for request in (post(PAYLOAD), post(whole, "Transfer-Encoding: chunked")):
            assert (await server.send(request)).status == 200
        await until(lambda: not len(server.connections))


@PARSERS
async def test_bodies_have_limits_however_they_come(tmp_path: Path, parser: str) -> None:
    async with wire(tmp_path, parser, max_body_bytes=100_000) as server:
        too_long = b'{"prompt": "' + b"x" * 120_000 + b'"}'
        is_refused(await server.send(post(too_long)), 413, "request_too_large")
        is_refused(
            await server.send(post(b"", "Content-Length: 30000000")), 413, "request_too_large"
        )
        in_chunks = post(chunked(too_long, 4096), "Transfer-Encoding: chunked")
        is_refused(await server.send(in_chunks), 413, "request_too_large")
        fits = b'{"max_tokens": 3, "prompt": "' + b"x" * 500 + b'"}'
        for size in (1, 7, 1000):
            request = post(chunked(fits, size), "Transfer-Encoding: chunked")
            assert (await server.send(request)).status == 200
        tiny = post(chunked(b" " * 90_000 + PAYLOAD, 1), "Transfer-Encoding: chunked")
        is_refused(await server.send(tiny), 413, "request_too_large")
        for end in (b"0\r\n" + b"T: r\r\n" * 300_000, b"0\r\nT: " + b"r" * 2_000_000):
            body = chunked(PAYLOAD, 100)[:-5] + end + b"\r\n\r\n"
            answer = await server.send(post(body, "Transfer-Encoding: chunked"))
            assert answer.status in (0, 400, 413)  # or a reset
        # A trailer is no header.
        body = chunked(PAYLOAD, 100)[:-2] + b"Content-Type: text/plain\r\n\r\n"
        assert (await server.send(post(body, "Transfer-Encoding: chunked"))).status == 200
        nothing_left(server.served)


@PARSERS
async def test_the_clock_ends_what_is_never_whole(
    tmp_path: Path, parser: str, measured: Measured
) -> None:
    limits = {"header_timeout": 1.0, "body_timeout": 1.5, "idle_keepalive": 1}
    async with wire(tmp_path, parser, **limits) as server:
        half_body = post(PAYLOAD)[:-5]
        drip = [bytes([byte]) for byte in (GET + b"A: " + b"b" * 60)]
        drip_body = [half_body[:-20], *(bytes([byte]) for byte in half_body[-20:])]
        silent, half_head, dripped, half, dripped_body, idle, slow_but_whole = await asyncio.gather(
            server.send(),
            server.send(GET),
            server.send(*drip, pause_s=0.03),
            server.send(half_body),
            server.send(*drip_body, pause_s=0.2),
            server.send(GET + b"\r\n"),
            server.send(GET, END, pause_s=0.1),
        )
        assert silent.raw == b""
        assert slow_but_whole.status == idle.status == 200
        assert 0.9 < idle.seconds < 9
        for answer in (half_head, dripped, half, dripped_body):
            is_refused(answer, 408, "request_timeout")
        assert max(silent.seconds, half_head.seconds, dripped.seconds) < 1 + 5
        assert max(half.seconds, dripped_body.seconds) < 1.5 + 5
        assert sorted(server.ended) == [*["request_timeout"] * 4, "silent"]
        measured(
            f"headers of one byte at a time ({parser}; limit 1 s in the test)",
            promised="closed after header_timeout",
            measured=f"{dripped.seconds:.2f} s",
        )
        nothing_left(server.served)
        await until(lambda: not len(server.connections))


@PARSERS
async def test_a_refusal_reaches_a_client_that_still_sends(tmp_path: Path, parser: str) -> None:
    """Closing at once would reset the connection, and the answer with it."""
    async with wire(tmp_path, parser) as server:
        for _ in range(3):
            pieces = [post(b"", "Content-Length: 3000000"), *[b"x" * 100_000] * 20]
            is_refused(await server.send(*pieces, pause_s=0.002), 413, "request_too_large")
        answer = await server.send(
            post(b"", "Content-Length: 3000000", "Expect: 100-continue", close=False)
        )
        is_refused(answer, 413, "request_too_large")
        assert answer.seconds < 1.9  # it did not linger
        is_refused(
            await server.send(
                post(b"", "Content-Length: 99999999", "X-Api-Key: none", close=False)
            ),
            413,
            "request_too_large",
        )


@PARSERS
async def test_expect_100_continue_asks_for_the_body(tmp_path: Path, parser: str) -> None:
    async with wire(tmp_path, parser) as server:
        reader, writer = await server.connect()
        head, _, body = post(PAYLOAD, "Expect: 100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        line = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert line.startswith(b"HTTP/1.1 100 ")
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@PARSERS
async def test_an_offered_upgrade_is_ignored_and_the_body_read(tmp_path: Path, parser: str) -> None:
    """Java's HTTP client offers h2c with its first request, curl --http2 too."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")
    async with wire(tmp_path, parser) as server:
        reader, writer = await server.connect()
        for request in (
            post(PAYLOAD, *offer),
            post(chunked(PAYLOAD, 9), "Transfer-Encoding: chunked", *offer),
            GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            post(PAYLOAD, *offer),
        ):
            at = request.index(b"\r\n\r\n") + 10
            writer.write(request[:at])
            await asyncio.sleep(0.01)
            writer.write(request[at:])
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 "), head
            (length,) = [
                int(line.split()[1])
                for line in head.lower().splitlines()
                if line.startswith(b"content-length")
            ]
            assert b"abc" in (body := await reader.readexactly(length)) or b"ok" in body
        writer.close()


@PARSERS
@pytest.mark.parametrize("stream", [True, False])
async def test_http_1_0_gets_an_answer_without_chunks(
    tmp_path: Path, parser: str, stream: bool
) -> None:
    async with wire(tmp_path, parser) as server:
        request = post({**BODY, "stream": stream}, "Connection: keep-alive", version="1.0")
        answer = await server.send(request)
        assert answer.status == 200
        assert "transfer-encoding" not in answer.head
        if stream:
            assert answer.body.startswith(b"data: {")
            assert answer.body.endswith(b"data: [DONE]\n\n")
        else:
            assert json.loads(answer.body)["choices"][0]["text"] == "abc"
        head = await server.send(b"HEAD /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert head.status == 200
        assert head.body == b""


@PARSERS
async def test_garbage_after_a_request_waits_for_its_answer(tmp_path: Path, parser: str) -> None:
    async with wire(tmp_path, parser) as server:
        gate = Gate(server.served)
        request = post({**BODY, "stream": True}, close=False)
        sending = asyncio.create_task(
            server.send(request, b"\x00\x01garbage\r\n\r\n", pause_s=0.05)
        )
        await until(lambda: server.served.core.stats()[0].num_waiting)
        await asyncio.sleep(0.15)
        await gate.open()
        answer = await sending
        assert answer.status == 200
        assert b"data: [DONE]\n\n\r\n0\r\n\r\n" in answer.body
        nothing_left(server.served)


@PARSERS
async def test_pipelined_requests_are_answered_in_order(tmp_path: Path, parser: str) -> None:
    async with wire(tmp_path, parser) as server:
        answer = await server.send(
            post(PAYLOAD, close=False) + GET + b"\r\n" + post(PAYLOAD, close=False) + GET + END
        )
        assert answer.raw.count(b"HTTP/1.1 200 OK") == 4
        assert answer.raw.count(b'"text":"abc"') == 2
        nothing_left(server.served)


async def test_a_flood_of_pipelined_requests_is_cut(tmp_path: Path) -> None:
    async with wire(tmp_path) as server:
        answer = await server.send((GET + b"\r\n") * 2000)
        assert answer.raw.count(b"HTTP/1.1") < 200
        assert (await server.get()).status == 200


@PARSERS
async def test_probes_find_a_place_when_all_others_are_taken(
    tmp_path: Path, parser: str, measured: Measured
) -> None:
    async with wire(tmp_path, parser, max_open=20, reserved=2) as server:
        silent = [await server.connect() for _ in range(60)]
        answer = await server.get()  # the oldest silent one makes room
        assert answer.status == 200
        assert len(server.connections) <= 20
        assert server.ended == ["made_room"] * 41
        measured(
            f"silent sockets three times the limit, then a probe ({parser})",
            promised="≤ 100 ms",
            measured=f"{answer.seconds * 1000:.1f} ms",
        )
        for _, writer in silent:
            writer.close()
        await until(lambda: not len(server.connections))

        gate = Gate(server.served)
        busy = [asyncio.create_task(server.send(post(BODY))) for _ in range(20)]
        await until(lambda: server.served.core.stats()[0].num_waiting == 20)
        assert (await server.get()).status == 200
        refused = await server.get("/v1/models")
        is_refused(refused, 503, "server_is_overloaded")
        assert "retry-after: " in refused.head
        server.connections.reserved = 0
        is_refused(await server.send(), 503, "server_is_overloaded")
        await gate.open()
        assert {answer.status for answer in await asyncio.gather(*busy)} == {200}
        nothing_left(server.served)


async def test_a_late_answer_does_not_cost_the_next_request(tmp_path: Path) -> None:
    """An error before a small body has come keeps the connection, and the parser in step."""
    async with wire(tmp_path) as server:
        reader, writer = await server.connect()
        request = post(PAYLOAD, "X: y", close=False).replace(b"application/json", b"text/css")
        at = request.index(b"\r\n\r\n") + 4
        writer.write(request[:at])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 415")
        await asyncio.sleep(0.02)
        writer.write(request[at:] + GET + END)
        assert b"HTTP/1.1 200 OK" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
