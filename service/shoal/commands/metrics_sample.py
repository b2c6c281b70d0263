"""What two looks at a server's /metrics say about the time between them, by model."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `at_s`: monotonic time; `values`: name -> labels -> value."""

    at_s: float
    values: dict[str, dict[Labels, float]]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Sample:
        """From Prometheus's text format. Raises ValueError for another one."""
        from prometheus_client.parser import text_string_to_metric_families

        values: dict[str, dict[Labels, float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
        return cls(at_s, dict(values))

    def of(self, name: str, **labels: str) -> float | None:
        """None if the server has not said it."""
        return self.values.get(name, {}).get(tuple(sorted(labels.items())))

    def total(self, name: str) -> int:
        """Of a gauge over all models."""
        return round(sum(self.values.get(name, {}).values()))

    def models(self) -> list[str]:
        """Those that have a state, in the server's order."""
        states = self.values.get("shoal_model_state", {})
        return list(dict.fromkeys(dict(labels)["model"] for labels in states))

    def state(self, model: str) -> str:
        states = self.values.get("shoal_model_state", {})
        for labels, value in states.items():
            if value and dict(labels).get("model") == model:
                return dict(labels).get("state", "–")
        return "–"


@dataclass(slots=True)
class ModelRates:
    """Of one model between two looks; None = nothing happened, or it is not known."""

    model: str
    state: str
    running: float | None = None
    waiting: float | None = None
    tokens_per_s: float | None = None
    prompt_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    first_token_s: float | None = None
    """Median, interpolated in the buckets of the histogram."""
    between_tokens_s: float | None = None
    batch_size: float | None = None
    """Mean over the steps."""
    kv_share: float | None = None
    cores: float | None = None
    """CPU seconds of the engine's steps per second."""


@dataclass(slots=True)
class View:
    """All that one frame shows."""

    models: list[ModelRates] = field(default_factory=list)
    connections: float | None = None
    loop_lag_s: float | None = None


def compare(before: Sample | None, now: Sample) -> View:
    """Without an earlier look, or where the server has begun anew since, there are no rates."""
    return View(
        [_of_model(name, before, now) for name in now.models()],
        now.of("shoal_connections_open"),
        now.of("shoal_loop_lag_seconds"),
    )


def _of_model(model: str, before: Sample | None, now: Sample) -> ModelRates:
    used, total = (now.of(f"shoal_kv_blocks_{kind}", model=model) for kind in ("used", "total"))
    rates = ModelRates(
        model,
        now.state(model),
        running=now.of("shoal_requests_running", model=model),
        waiting=now.of("shoal_requests_waiting", model=model),
        kv_share=used / total if used is not None and total else None,
    )
    if before is None or now.at_s <= before.at_s or _began_anew(before, now):
        return rates
    seconds = now.at_s - before.at_s

    def per_second(name: str) -> float | None:
        after = now.of(name, model=model)
        return None if after is None else (after - (before.of(name, model=model) or 0)) / seconds

    rates.tokens_per_s = per_second("shoal_generation_tokens_total")
    rates.prompt_tokens_per_s = per_second("shoal_prompt_tokens_total")
    rates.requests_per_s = per_second("shoal_request_seconds_count")
    rates.cores = per_second("shoal_cpu_seconds_total")
    rates.first_token_s = _median("shoal_time_to_first_token_seconds", model, before, now)
    rates.between_tokens_s = _median("shoal_inter_token_seconds", model, before, now)
    num_steps, num_rows = (per_second(f"shoal_batch_size_{kind}") for kind in ("count", "sum"))
    if num_steps and num_rows is not None:
        rates.batch_size = num_rows / num_steps
    return rates


def _began_anew(before: Sample, now: Sample) -> bool:
    """Counters never fall but when their process is another one."""
    return any(
        value < before.values[name].get(labels, 0)
        for name, by_labels in now.values.items()
        if name.endswith(("_total", "_count")) and name in before.values
        for labels, value in by_labels.items()
    )


def _median(name: str, model: str, before: Sample, now: Sample) -> float | None:
    """Of the values that a histogram has taken in between."""
    buckets: list[tuple[float, float]] = []
    for labels, value in now.values.get(f"{name}_bucket", {}).items():
        fields = dict(labels)
        if fields.get("model") == model:
            earlier = before.values.get(f"{name}_bucket", {}).get(labels, 0)
            buckets.append((float(fields["le"]), value - earlier))
    buckets.sort()
    if not buckets or buckets[-1][1] <= 0:
        return None
    half = buckets[-1][1] / 2
    low, num_below = 0.0, 0.0
    for bound, num in buckets:
        if num >= half:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (half - num_below) / (num - num_below)
        low, num_below = bound, num
    return None
