"""Networks that delay, cut and lose: the SDK never takes a part for the whole, and a client that
goes at any moment leaves nothing behind."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from shoal.client import AsyncClient, ConnectionFailed, StreamInterrupted, Timeout, Timeouts
from tests.fakes.http_app import serve, what_is_left
from tests.faults.measured import Measured
from tests.faults.proxy import Faults, Proxy, proxied
from tests.http.building import serve_script, until
from tests.http.test_disconnect import cut, listening, send_request

TEXT = "a text of some length, è🐟 "
LIMITS = Timeouts(connect_s=10.0, first_byte_s=10.0, between_data_s=10.0)


def client_of(proxy: Proxy, **settings: Any) -> AsyncClient:
    settings = {"max_retries": 0, "timeout": LIMITS} | settings
    return AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", **settings)


async def ask(client: AsyncClient, *, stream: bool) -> str:
    """The whole answer; raises an error of the SDK."""
    if not stream:
        return (await client.completions.create("x", max_tokens=60)).text
    async with await client.completions.create("x", max_tokens=60, stream=True) as answer:
        return (await answer.final()).text


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("every", [61, pytest.param(1, marks=pytest.mark.faults)])
async def test_an_answer_cut_at_any_byte_is_never_taken_for_the_whole(
    tmp_path: Path, stream: bool, every: int, measured: Measured
) -> None:
    async with (
        serve_script(tmp_path, TEXT) as (served, _),
        listening(served) as server,
        proxied(server.port) as proxy,
    ):
        async with client_of(proxy) as client:
            assert await ask(client, stream=stream) == TEXT
        length, wrong, number = proxy.num_bytes, 0, 0
        async with client_of(proxy) as client:  # each cut ends its connection
            for place in range(0, length, every):
                proxy.faults = Faults(cut_at=place, reset=place % 2 == 1)
                number += 1
                try:
                    wrong += await ask(client, stream=stream) != TEXT
                except (ConnectionFailed, StreamInterrupted):
                    continue
        kind = "a stream" if stream else "a plain answer"
        measured(
            f"{kind} is cut at {number} places of {length} bytes",
            promised="never taken for the whole",
            measured=f"{wrong} times",
        )
        assert wrong == 0


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_bytes_one_by_one_and_late_give_the_same_text(tmp_path: Path, stream: bool) -> None:
    async with (
        serve_script(tmp_path, TEXT) as (served, _),
        listening(served) as server,
        proxied(server.port) as proxy,
    ):
        for faults in (Faults(piece_bytes=1), Faults(delay_s=0.2, bytes_per_s=50_000.0)):
            proxy.faults = faults
            async with client_of(proxy) as client:
                assert await ask(client, stream=stream) == TEXT


@pytest.mark.parametrize("place", [0, 400])
async def test_a_peer_that_is_gone_without_a_word_is_a_timeout(tmp_path: Path, place: int) -> None:
    """At the start, and in the middle of a stream."""
    limits = Timeouts(connect_s=10.0, first_byte_s=0.5, between_data_s=0.5)
    async with (
        serve_script(tmp_path, TEXT) as (served, _),
        listening(served) as server,
        proxied(server.port) as proxy,
    ):
        proxy.faults = Faults(drop_at=place)
        async with client_of(proxy, timeout=limits) as client:
            with pytest.raises(Timeout):
                await ask(client, stream=True)
        proxy.faults = Faults()
        async with client_of(proxy) as client:
            assert await ask(client, stream=True) == TEXT


@pytest.mark.parametrize("number", [100, pytest.param(1000, marks=pytest.mark.faults)])
async def test_clients_that_go_at_random_moments_leave_nothing(
    tmp_path: Path, number: int, measured: Measured
) -> None:
    rng = random.Random(number)

    async def come_and_go(port: int) -> None:
        body = {
            "prompt": "x" * rng.randrange(1, 60), "stream": rng.random() < 0.6,
            "n": rng.choice([1, 2]), "max_tokens": rng.randrange(1, 300), "ignore_eos": True,
        }  # fmt: skip
        reader, writer = await send_request(port, body)
        await asyncio.sleep(rng.random() ** 3 * 0.2)
        if rng.random() < 0.3:
            await reader.read(rng.randrange(1, 2000))
        cut(writer, rng.choice(["close", "reset", "half-close"]))
        await asyncio.sleep(0.01)
        writer.close()

    async with serve(tmp_path, num_blocks=2048, max_queue=64) as served:
        async with listening(served) as server:
            for _ in range(number // 20):
                await asyncio.gather(*(come_and_go(server.port) for _ in range(20)))
            await until(lambda: not what_is_left(served), 20)
            left = what_is_left(served)
        measured(
            f"{number} clients go at random moments",
            promised="every gauge is back at its start",
            measured=", ".join(left) or "all are",
        )
        assert left == []
