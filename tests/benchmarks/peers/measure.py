"""Runs servers one after the other under the same load and writes down what each one did.

The load generator is `shoal bench`'s, the same for every server. Raw figures only: medians and
ratios are made in `report`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import uvloop

from shoal.commands.bench.load import Limits, Workload, run_level
from shoal.commands.bench.stats import LevelStats, level_stats

from .process import Command, Contender, Running, ServerFailed, first_token, running
from .shapes import Shape

PLAIN_CLIENTS = 32  # the level that is also measured without streaming
TAIL_S = 25.0  # longest wait for an answer after the window has closed
WAVE_TIMEOUT_S = 120.0
FEWEST_REQUESTS = 2  # of a level that is counted in waves


@dataclass(frozen=True, slots=True)
class LevelResult:
    """One server under one load, once. Times in milliseconds; None where nothing was seen."""

    server: str
    family: str
    weights: str
    shape: str
    round: int
    clients: int
    streamed: bool
    tokens_per_s: float
    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    inter_token_p50_ms: float | None = None
    num_completed: int = 0
    errors: dict[str, int] | None = None
    prompt_tokens: float | None = None  # mean of the answered requests
    generator_core_share: float | None = None


@dataclass(frozen=True, slots=True)
class StartResult:
    """One start. Memory: proportional set size of all processes, MiB, before and after load."""

    server: str
    shape: str
    round: int
    slots: int
    first_token_s: float
    memory_mib: float
    memory_after_mib: float


@dataclass(frozen=True, slots=True)
class Level:
    clients: int
    streamed: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """How long one level sends requests; shapes that count in waves ignore it."""

    duration_s: float
    round: int


def levels(clients: Iterable[int]) -> list[Level]:
    """Streamed at every number of clients, and once not streamed."""
    found = []
    for count in clients:
        found.append(Level(count))
        if count == PLAIN_CLIENTS:
            found.append(Level(count, streamed=False))
    return found


def run_server(
    contender: Contender, shape: Shape, wanted: Sequence[Level], window: Window
) -> tuple[list[StartResult], list[LevelResult]]:
    """Start the server (once, or once for each number of clients) and measure. Raises
    ServerFailed."""
    starts: list[StartResult] = []
    results: list[LevelResult] = []
    for group in _groups(contender, wanted):
        slots = max(level.clients for level in group)
        with running(contender.command(shape, slots)) as server:
            work = _workload(contender, server, shape, window)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                started = runner.run(first_token(server, work))
                before = server.memory_mib()
                for level in group:
                    stats = runner.run(_run_level(work, shape.load.waves, level, window))
                    if server.process.poll() is not None:
                        raise ServerFailed(f"it ended under load:\n{server.end_of_log()}")
                    results.append(_result(contender, shape, level, window, stats))
            after = server.memory_mib()
        number = window.round
        starts.append(
            StartResult(contender.name, shape.name, number, slots, started, before, after)
        )
    return starts, results


def start_only(command: Command, model: str) -> tuple[float, float]:
    """Start, one token of `model`, end: seconds to that token, MiB of all processes after it.
    Raises ServerFailed."""
    with running(command) as server:
        work = Workload(server.address, model, timeout_s=TAIL_S)
        return asyncio.run(first_token(server, work)), server.memory_mib()


def _groups(contender: Contender, wanted: Sequence[Level]) -> list[list[Level]]:
    if not contender.per_level:
        return [list(wanted)]
    counts = sorted({level.clients for level in wanted})
    return [[level for level in wanted if level.clients == count] for count in counts]


def _workload(contender: Contender, server: Running, shape: Shape, window: Window) -> Workload:
    load = shape.load
    timeout_s = window.duration_s + TAIL_S if load.waves is None else WAVE_TIMEOUT_S
    return Workload(
        server.address,
        shape.name,
        max_tokens=load.tokens,
        prompt_words=load.words,
        seed=window.round,  # every server sees the same prompts
        keep_alive=contender.keep_alive,
        timeout_s=timeout_s,
    )


async def _run_level(work: Workload, waves: int | None, level: Level, window: Window) -> LevelStats:
    if waves is None:
        limits = Limits(duration_s=window.duration_s)
    else:
        limits = Limits(num_requests=max(waves * level.clients, FEWEST_REQUESTS))
    run = await run_level(replace(work, stream=level.streamed), level.clients, limits)
    # Rates over whole answers, from the first request to the last token: clients that begin
    # together go through prefill together, and a window that ends inside a wave would count one
    # prefill too many, most of all for a slow server.
    run.sending_ended_at = run.ended_at
    return level_stats(run)


def _result(
    contender: Contender, shape: Shape, level: Level, window: Window, stats: LevelStats
) -> LevelResult:
    ttft, gaps = stats.ttft_ms, stats.inter_token_ms
    completed = stats.num_completed
    return LevelResult(
        server=contender.name,
        family=contender.family,
        weights=contender.weights,
        shape=shape.name,
        round=window.round,
        clients=level.clients,
        streamed=level.streamed,
        tokens_per_s=stats.output_tokens_per_s,
        ttft_p50_ms=ttft.p50 if ttft else None,
        ttft_p99_ms=ttft.p99 if ttft else None,
        inter_token_p50_ms=gaps.p50 if gaps else None,
        num_completed=completed,
        errors=stats.errors,
        prompt_tokens=stats.prompt_tokens / completed if stats.prompt_tokens else None,
        generator_core_share=stats.generator.core_share,
    )


def fastest(
    candidates: dict[str, Contender], shape: Shape, clients: int, duration_s: float
) -> tuple[str, dict[str, float]]:
    """The name of the candidate with most streamed tokens per second, and all rates; one that
    fails counts 0."""
    rates: dict[str, float] = {}
    for name, contender in candidates.items():
        rates[name] = 0.0
        try:
            _, (result,) = run_server(contender, shape, [Level(clients)], Window(duration_s, -1))
            rates[name] = result.tokens_per_s
        except ServerFailed as error:
            print(f"{contender.name}, {name}: {error}")
    return max(rates, key=lambda name: rates[name]), rates
