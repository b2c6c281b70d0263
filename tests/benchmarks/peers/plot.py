"""Draws throughput and time to first token of all servers, one row for each shape, as one PNG."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .measure import LevelResult

COLOURS = {
    "shoal": "#2563a8",
    "llama-server": "#d97706",
    "openvino": "#7c3aed",
    "vllm": "#6b7280",
}


def draw(levels: Sequence[LevelResult], title: str, file: Path) -> None:
    """Medians over the rounds. Streamed figures; OpenVINO, which has no others, as it is."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shapes = list(dict.fromkeys(level.shape for level in levels))
    figure = Figure(figsize=(11, 3.8 * len(shapes)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color="#6b7280")
    rows = figure.subplots(len(shapes), 2, squeeze=False)
    for (left, right), shape in zip(rows, shapes, strict=True):
        shown = [
            level
            for level in levels
            if level.shape == shape and (level.streamed or level.family == "openvino")
        ]
        _lines(left, shown, lambda level: level.tokens_per_s)
        _lines(right, shown, lambda level: level.ttft_p50_ms)
        left.set_title(f"{shape}: output tokens per second", loc="left", fontweight="bold")
        right.set_title(f"{shape}: first token p50, ms", loc="left", fontweight="bold")
        left.set_ylim(bottom=0)
        right.set_yscale("log")
        left.legend(frameon=False, fontsize=8, handlelength=3.5)
        for axes in (left, right):
            _tidy(axes, sorted({level.clients for level in shown}))
    figure.savefig(file, format="png")


def _lines(
    axes: Any, levels: Sequence[LevelResult], value: Callable[[LevelResult], float | None]
) -> None:
    for server in dict.fromkeys(level.server for level in levels):
        own = [level for level in levels if level.server == server]
        points: dict[int, list[float]] = {}
        for level in own:
            figure = value(level)
            if figure is not None:
                points.setdefault(level.clients, []).append(figure)
        counts = sorted(points)
        axes.plot(
            counts,
            [statistics.median(points[count]) for count in counts],
            color=COLOURS[own[0].family],
            linestyle="--" if own[0].weights == "int8" else "-",
            marker="o",
            markersize=4,
            linewidth=2,
            label=server + (" (in process)" if own[0].family == "openvino" else ""),
        )


def _tidy(axes: Any, clients: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, [str(count) for count in clients])
    axes.set_xlabel("concurrent clients")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
