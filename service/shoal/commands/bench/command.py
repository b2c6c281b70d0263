"""`shoal bench`: parses the flags, runs each concurrency level, writes table, JSON and plot."""

import importlib.util
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shoal.commands.terminal import DEFAULT_URL, ApiKey, BaseUrl, ModelName, fail

if TYPE_CHECKING:
    from .load import Limits, Target, Workload
    from .report import Report

DEFAULT_DURATION_S = 20.0
LOAD = "Load"
OUTPUT = "Output"


def bench(
    base_url: BaseUrl = None,
    model: ModelName = None,
    api: Annotated[
        Literal["completions", "chat"], typer.Option(help="Which route to measure.")
    ] = "completions",
    api_key: ApiKey = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Load a server that is not on this machine.")
    ] = False,
    concurrency: Annotated[
        str,
        typer.Option(
            metavar="N,N,…",
            help="Clients at once; one level after the other.",
            rich_help_panel=LOAD,
        ),
    ] = "1,8,32,128",
    requests: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Requests per level.", rich_help_panel=LOAD),
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="SECONDS",
            help="Seconds per level in which requests are sent; those begun are waited for. "
            f"{DEFAULT_DURATION_S:.0f} when --requests is not given either.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="SECONDS", help="Longest wait for one answer.", rich_help_panel=LOAD
        ),
    ] = 120.0,
    max_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens per answer.", rich_help_panel=LOAD)
    ] = 128,
    prompt_words: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Words per prompt, different for each request.",
            rich_help_panel=LOAD,
        ),
    ] = 64,
    shared_prefix: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Words all prompts begin with, before.", rich_help_panel=LOAD
        ),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Seed of the prompts. Without it a new one, so that a second run does not find "
            "its prompts cached.",
            rich_help_panel=LOAD,
        ),
    ] = None,
    stream: Annotated[bool, typer.Option(help="Stream the answers.", rich_help_panel=LOAD)] = True,
    keep_alive: Annotated[
        bool, typer.Option(help="Keep each client's connection.", rich_help_panel=LOAD)
    ] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all numbers.", rich_help_panel=OUTPUT),
    ] = None,
    plot_file: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Draw them.", rich_help_panel=OUTPUT),
    ] = None,
) -> None:
    """Measure a server: throughput, time to first token and between tokens, at several loads.

    Works against any OpenAI-compatible address. Each client sends its next request when its last
    answer has ended; failures are counted, never retried.
    """
    from .http import parse_address
    from .load import Limits, Workload

    levels = _parse_levels(concurrency)
    if plot_file is not None and importlib.util.find_spec("matplotlib") is None:
        fail("--plot needs matplotlib: pip install matplotlib", 2)
    for file in (json_file, plot_file):
        if file is not None and not file.absolute().parent.is_dir():
            fail(f"folder {file.parent} does not exist", 2)
    try:
        address = parse_address(base_url or DEFAULT_URL)
    except ValueError as error:
        fail(str(error), 2)
    if not (address.is_loopback or allow_remote):
        fail(f"{address.host} is not this machine: loading others needs --allow-remote", 2)
    if requests is None and duration is None:
        duration = DEFAULT_DURATION_S
    work = Workload(
        address,
        model or "",
        api=api,
        api_key=api_key or "",
        max_tokens=max_tokens,
        prompt_words=prompt_words,
        shared_prefix=shared_prefix,
        seed=time.time_ns() % 2**31 if seed is None else seed,
        stream=stream,
        keep_alive=keep_alive,
        timeout_s=timeout,
    )
    report = _run(work, levels, Limits(requests, duration))
    _write(report, json_file, plot_file)
    if not any(level.num_completed for level in report.levels):
        raise typer.Exit(1)


def _parse_levels(text: str) -> list[int]:
    try:
        levels = [int(part) for part in text.split(",")]
    except ValueError:
        levels = []
    if not levels or min(levels) < 1:
        fail(f"--concurrency {text!r}: numbers of clients like 1,8,32 are expected", 2)
    return levels


def _run(work: "Workload", levels: list[int], limits: "Limits") -> "Report":
    import asyncio

    from shoal.commands.machine import describe

    from .load import ProbeFailed
    from .report import Report
    from .stats import level_stats

    started = datetime.now(UTC)
    load_before = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            target, runs = runner.run(_measure_all(work, levels, limits))
    except ProbeFailed as error:
        fail(str(error))
    return Report(
        date=started.isoformat(timespec="seconds"),
        target=target,
        environment={**describe(), "load_before": load_before},
        levels=tuple(level_stats(run) for run in runs),
    )


async def _measure_all(
    work: "Workload", levels: list[int], limits: "Limits"
) -> tuple["Target", list[Any]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from .load import probe, run_level

    target = await probe(work)
    runs = []
    # Refreshed by the level's ticks: a refresh thread would compete with the load generator.
    progress = Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.fields[ended]} requests"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    progress.disable = not progress.console.is_terminal
    with progress:
        for level in levels:
            task = progress.add_task(f"{level} clients", total=1.0, ended=0)

            def show(ended: int, passed_s: float, task: Any = task) -> None:
                shares = []
                if limits.num_requests is not None:
                    shares.append(ended / limits.num_requests)
                if limits.duration_s is not None:
                    shares.append(passed_s / limits.duration_s)
                progress.update(task, completed=min(1.0, max(shares)), ended=ended, refresh=True)

            runs.append(await run_level(target.work, level, limits, show))
            progress.update(task, completed=1.0, ended=len(runs[-1].records), refresh=True)
    return target, runs


def _write(report: "Report", json_file: Path | None, plot_file: Path | None) -> None:
    from rich.console import Console

    from .report import as_json, notes, table

    # For a file or pipe rich assumes 80 columns and would truncate the table.
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    work, environment = report.target.work, report.environment
    console.print(
        f"[bold]{work.model}[/] at {work.address.url} · {work.api}"
        f"{' streamed' if work.stream else ''} · {work.shared_prefix + work.prompt_words} words in,"
        f" {work.max_tokens} tokens out · seed {work.seed}\n"
        f"{environment['cpu_model']}, {environment['usable_cores']:g} cores · {report.date}"
    )
    console.print(table(report.levels, console.width))
    for level in report.levels:
        cost = level.generator
        if cost.us_per_chunk is not None:
            console.print(
                f"[dim]generator at {level.concurrency}: {cost.core_share:.0%} of one core, "
                f"{cost.us_per_chunk:.0f} µs per chunk[/]"
            )
    for note in notes(report):
        console.print(f"[yellow]note[/] {note}", markup=True)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
    if plot_file is not None:
        from .plot import draw

        draw(
            report.levels,
            f"{work.model} · {environment['cpu_model']} · {report.date[:10]}",
            plot_file,
        )


def _loop_factory() -> Any:  # uvloop has no type hints
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
