"""A client that goes away frees its sequence within one step, at every moment, streamed or not;
first at the ASGI level with the engine held by hand, then on real sockets."""

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from shoal.server.wire.connections import Connections
from shoal.server.wire.limits import WireLimits
from shoal.server.wire.listener import listen
from tests.fakes.http_app import Served
from tests.http.building import AsgiCall, Gate, nothing_left, serve_script, settle, until

LONG = "a" * 500
BODY = {"prompt": "x" * 40, "max_tokens": 400}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1, 2, 5, 60])
async def test_the_sequence_is_free_before_the_next_step(
    tmp_path: Path, stream: bool, num_steps: int
) -> None:
    """Queued, in prefill (3 chunks of 16 tokens), at the first token, in the middle."""
    async with serve_script(tmp_path, LONG, token_budget=16) as (served, runner):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {**BODY, "stream": stream})
        await gate.allow(num_steps)
        assert served.core.stats()[0].num_running + served.core.stats()[0].num_waiting == 1
        call.disconnect()
        await asyncio.wait_for(call.task, 2)
        nothing_left(served)
        await gate.open()
        assert runner.num_steps == num_steps


async def test_all_choices_of_a_request_go_with_it(tmp_path: Path) -> None:
    async with serve_script(tmp_path, LONG) as (served, _):
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {**BODY, "n": 5, "prompt": ["a", "b"]})
        await gate.allow(3)
        call.disconnect()
        await call.task
        nothing_left(served)


async def test_others_are_not_touched(tmp_path: Path) -> None:
    """Half of a batch goes; the rest says what it says alone."""

    def own_number(prompt: list[int], sampling: Any) -> list[int]:
        return [prompt[0]] * 50

    async with serve_script(tmp_path, own_number) as (served, _):
        gate = Gate(served)
        bodies = [{"prompt": [97 + i], "max_tokens": 50, "stream": i % 4 > 1} for i in range(16)]
        calls = [AsgiCall(served, "/v1/completions", body) for body in bodies]
        for number, call in enumerate(calls):
            await gate.allow(1)
            if number % 2:
                call.disconnect()
        await gate.open()
        await asyncio.gather(*(call.task for call in calls))
        for number, call in enumerate(calls):
            if number % 2 == 0:
                text = (
                    "".join(event["choices"][0]["text"] for event in call.events)
                    if number % 4 > 1
                    else json.loads(call.answer.body)["choices"][0]["text"]
                )
                assert text == chr(97 + number) * 50
        nothing_left(served)


async def test_a_client_that_leaves_while_its_body_comes_is_no_error_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve_script(tmp_path, LONG) as (served, _):
        call = AsgiCall(served, "/v1/completions", b"")
        call._inbox = [{"type": "http.request", "body": b'{"prom', "more_body": True}]
        call.disconnect()
        await call.task
        nothing_left(served)
        text = (await served.client.get("/metrics")).text
        assert 'route="/v1/completions",status="499"' in text
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_client_that_left_is_counted_as_499(tmp_path: Path) -> None:
    async with serve_script(tmp_path, LONG) as (served, _):
        gate = Gate(served)
        for stream in (False, True):
            call = AsgiCall(served, "/v1/completions", {**BODY, "stream": stream})
            await gate.allow(2)
            call.disconnect()
            await call.task
        text = (await served.client.get("/metrics")).text
        assert 'requests_total{model="tiny",route="/v1/completions",status="499"} 2.0' in text
        assert 'cancelled_total{model="tiny",reason="disconnect"} 2.0' in text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_engine_is_told_once(tmp_path: Path, stream: bool) -> None:
    async with serve_script(tmp_path, LONG) as (served, _):
        aborted: list[int] = []
        abort = served.core.abort
        served.core.abort = lambda ids: (aborted.extend(ids), abort(ids))  # type: ignore[assignment, method-assign, return-value]
        gate = Gate(served)
        call = AsgiCall(served, "/v1/completions", {**BODY, "stream": stream, "n": 2})
        await gate.allow(2)
        call.disconnect()
        call.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call.task
        assert len(aborted) == len(set(aborted)) == 2
        nothing_left(served)


async def test_nothing_leaks_over_many_random_disconnects(tmp_path: Path) -> None:
    chance = random.Random(5)
    async with serve_script(tmp_path, "ab" * 5, max_batch_size=4, max_queue=30) as (served, _):
        gate = Gate(served)
        calls: list[AsgiCall] = []
        for _ in range(300):
            fields = {
                "prompt": "x" * chance.randint(1, 30),
                "n": chance.randint(1, 3),
                "stream": chance.random() < 0.5,
                "max_tokens": chance.randint(1, 12),
            }
            calls.append(AsgiCall(served, "/v1/completions", fields))
            if chance.random() < 0.7:
                chance.choice(calls[-8:]).disconnect()
            if chance.random() < 0.7:
                await gate.allow(1)
        await gate.open()
        await asyncio.wait_for(asyncio.gather(*(call.task for call in calls)), 20)
        nothing_left(served)
        served.core.check()


# --- real sockets --------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """Leaves the signals of the test process alone."""

    def capture_signals(self) -> Any:
        return contextlib.nullcontext()

    @property
    def port(self) -> int:
        port: int = self.servers[0].sockets[0].getsockname()[1]
        return port


@contextlib.asynccontextmanager
async def listening(served: Served) -> AsyncIterator[_Server]:
    """The app under uvicorn on a free port of the loopback."""
    settings = served.services.settings.model_copy(update={"port": 0})
    connections = Connections(WireLimits.of(settings), max_open=100, reserved=4)
    with listen(settings) as listener:
        config = uvicorn.Config(
            served.app, http=connections.protocol(), log_config=None, lifespan="off", ws="none"
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield server
        finally:
            server.should_exit = server.force_exit = True
            await task


async def send_request(
    port: int, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = json.dumps(body).encode()
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload)
    )
    await writer.drain()
    return reader, writer


def cut(writer: asyncio.StreamWriter, how: str) -> None:
    """Ends the connection with FIN, with RST, or only the sending half."""
    sock = writer.get_extra_info("socket")
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    elif how == "close":
        writer.close()
    else:
        writer.write_eof()


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("num_steps", [0, 2, 8])
async def test_a_closed_socket_frees_the_sequence(
    tmp_path: Path, how: str, stream: bool, num_steps: int
) -> None:
    """Queued, in prefill and in the middle; half a close counts as a close."""
    async with serve_script(tmp_path, LONG, token_budget=16) as (served, runner):
        gate = Gate(served)
        async with listening(served) as server:
            reader, writer = await send_request(server.port, {**BODY, "stream": stream})
            core = served.core
            await until(lambda: core.stats()[0].num_waiting == 1)
            await gate.allow(num_steps)
            if stream and num_steps == 8:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            cut(writer, how)
            await until(lambda: not served.services.open_requests)
            nothing_left(served)
            await gate.open()
            assert runner.num_steps == num_steps
            writer.close()


async def test_a_stream_on_a_real_socket_is_chunked_and_ends_properly(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _), listening(served) as server:
        reader, writer = await send_request(server.port, {"prompt": "x", "stream": True})
        raw = await reader.readuntil(b"0\r\n\r\n")
        head, _, body = raw.partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head.lower()
        assert body.count(b"\r\ndata: {") == 4
        assert b"data: [DONE]\n\n\r\n0\r\n\r\n" in body
        writer.close()


async def test_a_reader_that_stalls_on_a_real_socket_is_cancelled_and_others_go_on(
    tmp_path: Path,
) -> None:
    async with serve_script(
        tmp_path, "é" * 20_000, stream_stall_timeout=0.3, max_model_len=60_000, num_blocks=20_000
    ) as (served, _), listening(served) as server:  # fmt: skip
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        payload = json.dumps({"prompt": "x", "stream": True, "max_tokens": 40_000, "n": 8,
                              "logprobs": 0}).encode()  # fmt: skip
        await loop.sock_sendall(
            sock,
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
            b"\r\nContent-Length: %d\r\n\r\n%b" % (len(payload), payload),
        )
        await until(lambda: served.core.stats()[0].num_running == 8)
        reader, writer = await send_request(
            server.port, {"prompt": "y", "stream": True, "max_tokens": 9}
        )
        await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
        writer.close()
        await until(lambda: not served.services.open_requests, 30)
        await settle()
        nothing_left(served)
        await until(lambda: not server.server_state.connections, 20)  # and its buffers are gone
        sock.close()
