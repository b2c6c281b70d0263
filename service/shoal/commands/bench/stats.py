"""Computes percentiles, rates and error counts from request records. Pure functions."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .load import LevelRun, RequestRecord


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds over `count` values."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class GeneratorCost:
    """CPU used by the load generator. `core_share`: CPU seconds per second; 1 = one full core."""

    core_share: float
    us_per_chunk: float | None


@dataclass(frozen=True, slots=True)
class LevelStats:
    """One row of the table. Rates cover `window_s`, the seconds in which requests were sent;
    latencies cover every request sent in that window, until it ended."""

    concurrency: int
    num_completed: int
    num_failed: int
    errors: dict[str, int]
    window_s: float
    requests_per_s: float
    output_tokens_per_s: float
    output_tokens: int
    prompt_tokens: int | None
    tokens_counted_by: str  # usage, or chunks if the server does not report usage
    ttft_ms: Percentiles | None
    inter_token_ms: Percentiles | None
    latency_ms: Percentiles | None
    generator: GeneratorCost


def percentile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the nearest ranks of sorted values."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def percentiles_ms(seconds: Sequence[float]) -> Percentiles | None:
    """Percentiles in milliseconds; None without values."""
    if not seconds:
        return None
    ordered = sorted(1e3 * value for value in seconds)
    return Percentiles(
        count=len(ordered),
        mean=sum(ordered) / len(ordered),
        min=ordered[0],
        p50=percentile(ordered, 0.50),
        p90=percentile(ordered, 0.90),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
    )


def level_stats(run: LevelRun) -> LevelStats:
    good = [record for record in run.records if record.error is None]
    errors = Counter(record.error for record in run.records if record.error is not None)
    start, end = run.started_at, run.sending_ended_at
    window = max(end - start, 1e-9)
    by_usage = bool(good) and all(record.output_tokens is not None for record in good)
    prompt_tokens = [r.prompt_tokens for r in good if r.prompt_tokens is not None]
    chunks = sum(len(record.token_times) for record in run.records)
    return LevelStats(
        concurrency=run.concurrency,
        num_completed=len(good),
        num_failed=len(run.records) - len(good),
        errors=dict(sorted(errors.items())),
        window_s=window,
        requests_per_s=sum(record.ended_at <= end for record in good) / window,
        output_tokens_per_s=sum(_tokens_between(r, start, end) for r in run.records) / window,
        output_tokens=round(sum(_num_tokens(record) for record in run.records)),
        prompt_tokens=sum(prompt_tokens) if prompt_tokens else None,
        tokens_counted_by="usage" if by_usage else "chunks",
        ttft_ms=percentiles_ms([r.token_times[0] - r.sent_at for r in good if r.token_times]),
        inter_token_ms=percentiles_ms(
            [after - before for r in good for before, after in pairwise(r.token_times)]
        ),
        latency_ms=percentiles_ms([record.ended_at - record.sent_at for record in good]),
        generator=GeneratorCost(
            core_share=run.cpu_s / max(run.ended_at - start, 1e-9),
            us_per_chunk=1e6 * run.cpu_s / chunks if chunks else None,
        ),
    )


def _num_tokens(record: RequestRecord) -> float:
    return len(record.token_times) if record.output_tokens is None else record.output_tokens


def _tokens_between(record: RequestRecord, start: float, end: float) -> float:
    """Tokens that arrived in the window. A chunk may hold several tokens, so chunks are scaled to
    the server's token count; a response that was not streamed is spread evenly over its time."""
    if record.token_times:
        inside = sum(start <= moment <= end for moment in record.token_times)
        return inside * _num_tokens(record) / len(record.token_times)
    span = max(record.ended_at - record.sent_at, 1e-9)
    overlap = min(record.ended_at, end) - max(record.sent_at, start)
    return _num_tokens(record) * min(1.0, max(0.0, overlap / span))
