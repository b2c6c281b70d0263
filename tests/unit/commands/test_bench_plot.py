"""The plot is a real picture with one tick for every number of clients."""

from pathlib import Path

import pytest

from shoal.commands.bench.plot import draw
from shoal.commands.bench.stats import GeneratorCost, LevelStats, Percentiles


def make_level(concurrency: int, ttft_ms: float | None) -> LevelStats:
    values = None if ttft_ms is None else Percentiles(9, *[ttft_ms * x for x in (1, 1, 1, 2, 3, 3)])
    cost = GeneratorCost(0.1, 9.0)
    return LevelStats(
        concurrency, 9, 0, {}, 1.0, 1.0, 50.0, 99, None, "usage", values, None, None, cost
    )


@pytest.mark.parametrize(
    "levels", [[(1, 10.0), (8, 90.0), (128, 4000.0)], [(4, 20.0)], [(1, None), (2, None)]]
)
def test_any_levels_give_a_png(levels: list[tuple[int, float | None]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "plot.png"
    draw([make_level(*level) for level in levels], "title", file)
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[i : i + 4]) for i in (16, 20))
    assert (width, height) == (1500, 660)
