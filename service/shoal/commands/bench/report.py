"""Presents the results: a table, JSON, and notes that explain the numbers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from .load import Target
from .stats import LevelStats, Percentiles

BUSY_GENERATOR = 0.7  # of one core; above it the load generator may be the bottleneck
JSON_FORMAT = 1
WIDE_TABLE = 125  # terminal columns


@dataclass(frozen=True, slots=True)
class Report:
    """Results of one benchmark run."""

    date: str  # ISO 8601, UTC
    target: Target
    environment: dict[str, Any]
    levels: tuple[LevelStats, ...]


def as_json(report: Report) -> dict[str, Any]:
    work = report.target.work
    settings = asdict(work)
    for left_out in ("api_key", "address", "model"):
        del settings[left_out]
    return {
        "format": JSON_FORMAT,
        "date": report.date,
        "url": work.address.url,
        "model": work.model,
        "server_version": report.target.server_version,
        "settings": settings,
        "environment": report.environment,
        "notes": notes(report),
        "levels": [asdict(level) for level in report.levels],
    }


def notes(report: Report) -> list[str]:
    """What one must know to interpret the numbers."""
    work = report.target.work
    lines = list(report.target.notes)
    load, cores = report.environment.get("load_before"), report.environment.get("usable_cores")
    if load is not None and cores is not None and load > cores / 2:
        lines.append(f"the machine was busy before: load {load:.1f} on {cores:g} cores")
    for level in report.levels:
        name = f"{level.concurrency} clients"
        if level.generator.core_share > BUSY_GENERATOR:
            share = f"{level.generator.core_share:.0%}"
            lines.append(
                f"{name}: the generator used {share} of one core; it may be the bottleneck"
            )
        requested = level.num_completed * work.max_tokens
        if level.tokens_counted_by == "usage" and level.output_tokens < 0.99 * requested:
            mean = level.output_tokens / max(level.num_completed, 1)
            lines.append(f"{name}: answers ended early, {mean:.0f} of {work.max_tokens} tokens")
        for error, count in level.errors.items():
            lines.append(f"{name}: {count} × {error}")
    return lines


def table(levels: Sequence[LevelStats], width: int) -> Table:
    """The results table, with percentiles stacked vertically if `width` columns are too few."""
    separator = " / " if width >= WIDE_TABLE else "\n"
    shown = Table(header_style="bold", show_lines=separator == "\n")
    for title in ("clients", "tokens/s", "req/s", "TTFT ms", "inter-token ms", "latency ms"):
        shown.add_column(title, justify="right")
    shown.add_column("done", justify="right")
    shown.add_column("failed", justify="right")
    for level in levels:
        shown.add_row(
            str(level.concurrency),
            Text(f"{level.output_tokens_per_s:,.0f}", style="bold green"),
            f"{level.requests_per_s:.2f}",
            _percentiles_text(level.ttft_ms, separator),
            _percentiles_text(level.inter_token_ms, separator),
            _percentiles_text(level.latency_ms, separator),
            str(level.num_completed),
            Text(str(level.num_failed), style="bold red" if level.num_failed else "dim"),
        )
    shown.caption = "milliseconds as p50 / p90 / p99"
    return shown


def _percentiles_text(values: Percentiles | None, separator: str) -> str:
    if values is None:
        return "–"
    return separator.join(_format_ms(value) for value in (values.p50, values.p90, values.p99))


def _format_ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"
