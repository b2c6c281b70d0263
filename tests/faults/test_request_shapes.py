"""Work that grows with a request's body does not hold up the others."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.fakes.http_app import Served
from tests.faults.measured import Measured
from tests.faults.real_server import MODEL, server
from tests.faults.request_shapes import IN_DEFAULT_SUITE, SHAPES, Shape
from tests.http.building import AsgiCall, serve_script

SLACK = 3
MARK_MS = 100
MAX_GROWTH = 2.5
"""Of the work for twice the input."""
FLOOR_MS = 20
"""Less is not a measure of growth."""


@dataclass
class Cost:
    """What one request took, milliseconds."""

    status: int
    wall: float
    cpu: float
    loop_cpu: float
    """Of the event loop's thread: a busy machine changes it little."""
    lag: float
    """Longest time for which the event loop did nothing else."""


async def cost_of(served: Served, shape: Shape, times: int) -> Cost:
    body = shape.body(times).replace(b"MODEL", b"tiny")
    ticker = Ticker()
    began, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
    call = AsgiCall(served, shape.route, body)
    await call.task
    cost = Cost(
        call.answer.status,
        (time.perf_counter() - began) * 1000,
        (time.process_time() - cpu) * 1000,
        (time.thread_time() - loop_cpu) * 1000,
        await ticker.stop(),
    )
    is_right = cost.status == 200 if shape.outcome == "served" else 400 <= cost.status < 500
    assert is_right, (shape.name, call.answer.body[:500])
    return cost


class Ticker:
    """Wakes up every millisecond."""

    def __init__(self) -> None:
        self._lag_s = 0.0
        self._task = asyncio.create_task(self._tick())

    async def stop(self) -> float:
        """The longest delay, milliseconds."""
        await asyncio.sleep(0.002)
        self._task.cancel()
        return self._lag_s * 1000

    async def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self._lag_s, last = max(self._lag_s, now - last), now


@asynccontextmanager
async def warm(folder: Path, shape: Shape) -> AsyncIterator[Served]:
    async with serve_script(folder, "ab", max_model_len=512) as (served, _):
        await AsgiCall(served, shape.route, b'{"prompt": 7}').task
        gc.collect()
        gc.freeze()  # as the server does
        try:
            yield served
        finally:
            gc.unfreeze()


@pytest.mark.parametrize("name", IN_DEFAULT_SUITE)
async def test_the_event_loop_does_little_for_a_large_body(tmp_path: Path, name: str) -> None:
    [shape] = [shape for shape in SHAPES if shape.name == name]
    async with warm(tmp_path, shape) as served:
        assert (await cost_of(served, shape, 2)).loop_cpu <= MARK_MS * SLACK


@pytest.mark.faults
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_no_shape_holds_up_the_event_loop(
    tmp_path: Path, shape: Shape, measured: Measured
) -> None:
    growth = float("inf")
    async with warm(tmp_path, shape) as served:
        for _ in range(3):  # a busy machine lengthens one or the other
            once, twice = await cost_of(served, shape, 1), await cost_of(served, shape, 2)
            growth = min(growth, twice.cpu / max(once.cpu, FLOOR_MS))
            if growth <= MAX_GROWTH:
                break
    refusal = f", refused in {twice.wall:.0f} ms" if shape.outcome == "refused" else ""
    measured(
        f"request: {shape.name} ({len(shape.body(2)) // 1024} KiB)",
        promised="loop lag and refusal ≤ 100 ms, double input ≤ 2.5 x",
        measured=f"lag {max(once.lag, twice.lag):.0f} ms, {growth:.1f} x{refusal}",
    )
    assert max(once.lag, twice.lag) <= MARK_MS * SLACK
    assert growth <= MAX_GROWTH
    if refusal:
        assert max(once.wall, twice.wall) <= MARK_MS * SLACK


# --- a whole server ------------------------------------------------------------------------------


class Neighbour(threading.Thread):
    """Repeats something and keeps the longest time between two events, in milliseconds."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.longest_ms = 0.0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            last = time.perf_counter()
            for _ in self.events():
                now = time.perf_counter()
                self.longest_ms, last = max(self.longest_ms, (now - last) * 1000), now

    def events(self) -> Iterator[object]:
        raise NotImplementedError


class Prober(Neighbour):
    """Asks for /livez."""

    def events(self) -> Iterator[object]:
        assert self.client.get("/livez").status_code == 200
        yield
        time.sleep(0.002)


class Reader(Neighbour):
    """Reads streams; the time to a first token does not count."""

    def events(self) -> Iterator[object]:
        body = {"prompt": "Once upon a time", "max_tokens": 400, "stream": True,
                "ignore_eos": True}  # fmt: skip
        with self.client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            began = time.perf_counter()
            for _ in lines:
                now = time.perf_counter()
                self.longest_ms, began = max(self.longest_ms, (now - began) * 1000), now
        return
        yield


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_probes_and_a_stream_go_on_beside_every_shape(tmp_path: Path, measured: Measured) -> None:
    with server(tmp_path / "log") as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/v1/completions", json={"prompt": "warm", "max_tokens": 4})
        neighbours = Prober(url), Reader(url)
        for neighbour in neighbours:
            neighbour.start()
        slow: list[str] = []
        for shape in SHAPES:
            body = shape.body(2).replace(b"MODEL", MODEL.encode())
            for neighbour in neighbours:
                neighbour.longest_ms = 0.0
            response = client.post(
                shape.route, content=body, headers={"content-type": "application/json"}
            )
            time.sleep(0.05)
            assert response.status_code < 500, (shape.name, response.text[:500])
            live_ms, gap_ms = (neighbour.longest_ms for neighbour in neighbours)
            measured(
                f"beside a request: {shape.name} ({len(body) // 1024} KiB)",
                promised="/livez and the gap of a stream ≤ 100 ms",
                measured=f"/livez {live_ms:.0f} ms, gap {gap_ms:.0f} ms",
            )
            if max(live_ms, gap_ms) > MARK_MS * SLACK:
                slow.append(f"{shape.name}: /livez {live_ms:.0f} ms, gap {gap_ms:.0f} ms")
        for neighbour in neighbours:
            neighbour.ended.set()
            neighbour.join()
        assert not slow, slow
