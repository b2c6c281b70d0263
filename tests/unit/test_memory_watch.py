"""New work is refused above a share of the memory limit, until there is clearly more again."""

import asyncio
from pathlib import Path

import pytest

from shoal.server import memory_watch
from shoal.server.memory_watch import MemoryUse, is_short, read_memory, watch_memory
from tests.http.building import nothing_left, refused, serve_script, until


@pytest.mark.parametrize(
    ("share", "was_short", "expected"),
    [(0.89, False, False), (0.91, False, True), (0.86, True, True), (0.84, True, False)],
)
def test_the_two_marks(share: float, was_short: bool, expected: bool) -> None:
    assert is_short(share, was_short, 0.9) is expected
    assert not is_short(share, was_short, 1.0)


async def test_above_the_mark_new_requests_get_503_and_what_runs_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_watch, "LOOK_S", 0.01)
    used = [50]
    async with serve_script(tmp_path, "abc") as (served, _):

        def read() -> list[MemoryUse]:
            return [MemoryUse(10, 100), MemoryUse(used[0], 100)]  # the nearest limit counts

        watch = asyncio.create_task(watch_memory(served.services, read))
        assert (await served.complete()).status_code == 200
        used[0] = 95
        await until(lambda: served.services.memory_is_short)
        response = await served.complete()
        refused(response, 503, "server_is_overloaded")
        assert response.headers["retry-after"]
        assert (await served.client.get("/livez")).status_code == 200
        assert (await served.client.get("/metrics")).status_code == 200
        used[0] = 86  # not yet
        await asyncio.sleep(0.1)
        assert served.services.memory_is_short
        used[0] = 84
        await until(lambda: not served.services.memory_is_short)
        assert (await served.complete()).status_code == 200
        watch.cancel()
        nothing_left(served)


def test_something_is_read_here() -> None:
    uses = read_memory()
    assert uses
    assert all(use.used > 0 and use.limit > 0 for use in uses)
