"""docs/benchmarks.md and its plots, from figures.toml. What writes them: generate.py."""

import io
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture import MUTED, PICTURE_INK, SERIES, themed
from reference import page, table

FIGURES = Path(__file__).with_name("figures.toml")
WIDTH, HEIGHT = 7.2, 3.0  # inches
INTRO = """\
Every figure stands with its machine and its command; run the command on a machine of yours to
measure it again. Two cores of a shared machine drift, so compare what was measured in one
run. `shoal bench` measures any OpenAI-compatible address:"""


def figures() -> list[dict[str, Any]]:
    """All that was measured, in the order of the page."""
    found: list[dict[str, Any]] = tomllib.loads(FIGURES.read_text(encoding="utf-8"))["figure"]
    return found


def benchmarks() -> str:
    """The page: each figure with its plot, table, machine and command."""
    lines = ["# Benchmarks", "", INTRO, "", "```sh"]
    lines += ["shoal bench --concurrency 1,4 --requests 8 --max-tokens 16", "```", ""]
    for figure in figures():
        lines += [f"## {figure['title']}", "", figure["text"], ""]
        if "plot" in figure:
            lines += [f"![{_told(figure)}](images/plots/{figure['name']}.svg)", ""]
        lines += table(
            tuple(figure["columns"]), [tuple(map(_shown, row)) for row in figure["rows"]]
        )
        commands = " and ".join(f"`{command}`" for command in figure["command"].split("; "))
        lines += [f"Machine: {figure['machine']}. Command: {commands}.", ""]
    return page(*lines)


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _told(figure: dict[str, Any]) -> str:
    return f"{figure['title']}: {figure['unit']} by number of clients"


def plots() -> dict[str, Callable[[], str]]:
    """File name -> what draws it."""
    return {
        f"images/plots/{figure['name']}.svg": lambda figure=figure: plot(figure)
        for figure in figures()
        if "plot" in figure
    }


def plot(figure: dict[str, Any]) -> str:
    """Bars for each number of clients, one for each column that `plot` names, as SVG."""
    style = {"svg.hashsalt": "shoal", "svg.fonttype": "none", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        drawn = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        _draw(drawn.subplots(), figure)
        out = io.StringIO()
        drawn.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return themed(out.getvalue())


def _draw(axes: Axes, figure: dict[str, Any]) -> None:
    clients = [row[0] for row in figure["rows"]]
    names = figure["plot"]
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        column = figure["columns"].index(name)
        left = [at - 0.4 + width * (place + 0.5) for at in range(len(clients))]
        heights = [row[column] for row in figure["rows"]]
        bars = axes.bar(left, heights, width * 0.92, color=SERIES[place], label=name)
        axes.bar_label(bars, [_shown(h) for h in heights], fontsize=7, color=PICTURE_INK, padding=1)
    axes.set_xticks(range(len(clients)), [str(number) for number in clients])
    axes.set_xlabel("clients", color=PICTURE_INK)
    axes.set_ylabel(figure["unit"], color=PICTURE_INK)
    axes.tick_params(colors=PICTURE_INK, length=0)
    axes.grid(axis="y", color=MUTED, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    if len(names) > 1:
        axes.legend(
            frameon=False, labelcolor=PICTURE_INK, fontsize=8, ncols=len(names),
            loc="lower center", bbox_to_anchor=(0.5, 1.02),
        )  # fmt: skip
