"""What a user sees of a run: a progress bar while it trains, a plot of the loss at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from shoal.train.progress import Progress as RunProgress
from shoal.train.progress import StepReport


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[StepReport], None]]:
    """A bar with loss, tokens per second and time left; yields what `run_training` calls."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s  {task.fields[left]} left"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=1.0, step=0, loss=float("nan"), speed=0.0, left="?")

        def show(report: StepReport) -> None:
            bar.update(
                task,
                completed=report.share_done,
                step=report.step,
                loss=report.loss,
                speed=report.tokens_per_s,
                left=clock_text(report.left_s),
            )

        yield show


def clock_text(seconds: float) -> str:
    """`4:05` or `1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def write_loss_plot(progress: RunProgress, path: Path) -> bool:
    """Loss and held-out figures over tokens as a PNG. False when matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = plot_panels(progress)
    figure = Figure(figsize=(5 * len(panels) + 1, 4), layout="constrained")
    for index, (title, shown) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), index)
        for name in shown:
            if name == "loss":
                points = list(progress.losses)
                axes.plot([at / 1e6 for at, _ in points], smooth([loss for _, loss in points]))
                continue
            points = [(at, figures[name]) for at, figures in progress.held_out if name in figures]
            label = name.partition(" ")[2]
            axes.plot([at / 1e6 for at, _ in points], [y for _, y in points], ".-", label=label)
        axes.set_title(title)
        axes.set_xlabel("million tokens")
        axes.grid(alpha=0.3)
        if shown != ["loss"]:
            axes.legend()
    figure.savefig(path, dpi=120)
    return True


def plot_panels(progress: RunProgress) -> list[tuple[str, list[str]]]:
    """(title, names of curves) of each panel: curves of one unit share an axis."""
    names = sorted({name for _, figures in progress.held_out for name in figures})
    panels = [("training loss, nats per token", ["loss"])]
    for title, start in (
        ("bits per byte, held out", "bits_per_byte "),
        ("exact, held out", "exact "),
    ):
        if curves := [name for name in names if name.startswith(start)]:
            panels.append((title, curves))
    return panels


def smooth(values: list[float], share: float = 0.05) -> list[float]:
    """Exponential moving average; NaN repeats the average so far."""
    smoothed: list[float] = []
    mean = next((value for value in values if value == value), 0.0)
    for value in values:
        mean += share * (value - mean) if value == value else 0.0
        smoothed.append(mean)
    return smoothed
