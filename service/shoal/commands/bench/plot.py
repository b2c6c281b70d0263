"""Draws throughput and time to first token against the number of clients, as one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .stats import LevelStats, Percentiles

BLUE, ORANGE, GREY = "#2563a8", "#d97706", "#6b7280"


def draw(levels: Sequence[LevelStats], title: str, file: Path) -> None:
    """Raises ImportError without matplotlib, OSError when `file` cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=GREY)
    throughput, first_token = figure.subplots(1, 2)
    _draw_throughput(throughput, levels)
    _draw_latency(first_token, levels)
    for axes in (throughput, first_token):
        _style_axes(axes, [level.concurrency for level in levels])
    figure.savefig(file, format="png")


def _draw_throughput(axes: Any, levels: Sequence[LevelStats]) -> None:
    clients = [level.concurrency for level in levels]
    rates = [level.output_tokens_per_s for level in levels]
    axes.plot(clients, rates, color=BLUE, marker="o", linewidth=2)
    for x, y in zip(clients, rates, strict=True):
        axes.annotate(
            f"{y:,.0f}",
            (x, y),
            (-5, 7),
            textcoords="offset points",
            ha="right",
            color=BLUE,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set_title("Throughput", loc="left", fontweight="bold")
    axes.set_ylabel("output tokens per second")
    axes.set_ylim(0, 1.18 * max(rates, default=1.0) or 1.0)


def _draw_latency(axes: Any, levels: Sequence[LevelStats]) -> None:
    """Time to first token; the total latency if nothing was streamed."""
    streamed = any(level.ttft_ms for level in levels)
    axes.set_title("Time to first token" if streamed else "Latency", loc="left", fontweight="bold")
    axes.set_ylabel("milliseconds")
    points: list[tuple[int, Percentiles]] = []
    for level in levels:
        values = level.ttft_ms if streamed else level.latency_ms
        if values is not None:
            points.append((level.concurrency, values))
    if not points:
        return
    clients = [x for x, _ in points]
    p50, p90, p99 = ([getattr(v, name) for _, v in points] for name in ("p50", "p90", "p99"))
    axes.fill_between(clients, p50, p99, color=ORANGE, alpha=0.12, linewidth=0)
    axes.plot(clients, p99, color=ORANGE, marker="^", linewidth=1, linestyle=":", label="p99")
    axes.plot(clients, p90, color=ORANGE, marker="s", linewidth=1, linestyle="--", label="p90")
    axes.plot(clients, p50, color=ORANGE, marker="o", linewidth=2, label="p50")
    axes.set_yscale("log")
    low, high = min(p50), max(p99)
    # A log axis that spans less than a decade would have almost no ticks.
    axes.set_ylim(min(low / 1.5, high / 10), max(high * 1.5, low * 10))
    axes.legend(frameon=False, loc="upper left")


def _style_axes(axes: Any, clients: Sequence[int]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    plain = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients, [str(count) for count in clients])
    axes.set_xlim(min(clients) / 1.8, max(clients) * 1.4)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(plain)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("concurrent clients")
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
