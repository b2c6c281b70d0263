"""All Prometheus metrics. Names are part of the API; buckets suit CPU speeds (1 ms to 60 s)."""

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from shoal.logs import num_dropped_lines
from shoal.protocol.messages import StepOutputs

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
MAX_TENANTS = 50
"""Tenants with a label of their own; those that come later share "other"."""
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _StepMetrics(NamedTuple):
    """Metrics updated by every step of one model, with their labels resolved."""

    batch_size: Histogram
    step_seconds: Histogram
    generation_tokens: Counter
    cpu_seconds: Counter


class _TenantMetrics(NamedTuple):
    """What is counted for each tenant."""

    requests: Counter
    prompt_tokens: Counter
    generation_tokens: Counter


class _DroppedLines(Collector):
    """Counted where lines are written."""

    def collect(self) -> Iterable[CounterMetricFamily]:
        text = "Log lines that could not be written"
        yield CounterMetricFamily("shoal_log_lines_dropped", text, value=num_dropped_lines())


class Metrics:
    """The metrics of one server process, in their own registry."""

    def __init__(self, *, by_tenant: bool = False) -> None:
        """`by_tenant`: also count what each tenant uses."""
        self.registry = CollectorRegistry()
        self.registry.register(_DroppedLines())
        self._tenants: set[str] = set()
        self._last_yields: dict[str, int] = {}
        self._last_preemptions: dict[str, int] = {}
        self._step_metrics: dict[str, _StepMetrics] = {}
        by_model = ("model",)

        def counter(name: str, text: str, labels: tuple[str, ...] = by_model) -> Counter:
            return Counter(f"shoal_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = by_model) -> Gauge:
            return Gauge(f"shoal_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(
                f"shoal_{name}", text, by_model, buckets=buckets, registry=self.registry
            )

        self.requests = counter("requests_total", "Finished requests", ("model", "route", "status"))
        self.rejected = counter("rejected_total", "Requests refused", ("model", "reason"))
        self.cancelled = counter("cancelled_total", "Requests ended early", ("model", "reason"))
        self.prompt_tokens = counter("prompt_tokens_total", "Prompt tokens received")
        self.cached_tokens = counter(
            "cached_prompt_tokens_total", "Prompt tokens found in the prefix cache"
        )
        self.generation_tokens = counter("generation_tokens_total", "Tokens generated")
        self.draft_tokens = counter("draft_tokens_total", "Tokens guessed and computed")
        self.accepted_draft_tokens = counter(
            "accepted_draft_tokens_total", "Guessed tokens that were right"
        )
        self.cpu_seconds = counter("cpu_seconds_total", "CPU time of the engine's steps")
        self.preemptions = counter("preemptions_total", "Sequences preempted for lack of KV blocks")
        self.yields = counter("yields_total", "Sequences that made way for a lighter tenant")
        self.by_tenant: _TenantMetrics | None = None
        if by_tenant:
            labels = ("model", "tenant")
            self.by_tenant = _TenantMetrics(
                counter("tenant_requests_total", "Requests of a tenant", labels),
                counter("tenant_prompt_tokens_total", "Prompt tokens of a tenant", labels),
                counter("tenant_generation_tokens_total", "Tokens generated for it", labels),
            )
        self.running = gauge("requests_running", "Sequences in the batch")
        self.waiting = gauge("requests_waiting", "Sequences waiting for a row")
        self.queue_tokens = gauge("queue_tokens", "Prompt tokens waiting")
        self.kv_used = gauge("kv_blocks_used", "KV blocks held by sequences")
        self.kv_total = gauge("kv_blocks_total", "KV blocks of the pool")
        self.model_state = gauge("model_state", "1 for the state a model is in", ("model", "state"))
        self.connections = gauge("connections_open", "Open connections, those of probes too", ())
        self.connections_ended = counter(
            "connections_ended_total",
            "Connections that a limit ended, or that made room for others",
            ("reason",),
        )
        self.loop_lag = gauge("loop_lag_seconds", "Event loop lag", ())
        self.queue_seconds = histogram("queue_seconds", "From submission to the first step")
        self.ttft = histogram("time_to_first_token_seconds", "From submission to the first token")
        self.inter_token = histogram("inter_token_seconds", "Mean time between a request's tokens")
        self.request_seconds = histogram("request_seconds", "Whole requests")
        self.batch_size = histogram("batch_size", "Sequences in a step", _ROWS)
        self.step_seconds = histogram("step_seconds", "One engine step")

    def forget(self, model: str) -> None:
        """The model is gone: nothing shows its state any more. What was counted stays."""
        for gauge in (self.running, self.waiting, self.queue_tokens, self.kv_used, self.kv_total):
            with contextlib.suppress(KeyError):
                gauge.remove(model)
        for state in ("loading", "ready", "failed"):
            with contextlib.suppress(KeyError):
                self.model_state.remove(model, state)
        self._last_preemptions.pop(model, None)

    def on_step(self, outputs: StepOutputs) -> None:
        """Implements StepObserver: records one engine step."""
        model, stats = outputs.model, outputs.stats
        if (step_metrics := self._step_metrics.get(model)) is None:
            step_metrics = self._step_metrics[model] = _StepMetrics(
                self.batch_size.labels(model),
                self.step_seconds.labels(model),
                self.generation_tokens.labels(model),
                self.cpu_seconds.labels(model),
            )
        step_metrics.batch_size.observe(outputs.batch_size)
        step_metrics.step_seconds.observe(outputs.step_s)
        num_further = sum(map(len, outputs.further.values()))
        step_metrics.generation_tokens.inc(len(outputs.token_ids) + num_further)
        if outputs.num_drafted:
            self.draft_tokens.labels(model).inc(outputs.num_drafted)
            self.accepted_draft_tokens.labels(model).inc(outputs.num_accepted)
        step_metrics.cpu_seconds.inc(outputs.cpu_s)
        before = self._last_preemptions.get(model, 0)
        if stats.num_preemptions != before:
            # A restarted engine starts counting at zero.
            self.preemptions.labels(model).inc(max(0, stats.num_preemptions - before))
            self._last_preemptions[model] = stats.num_preemptions
        if stats.num_yields != (yields := self._last_yields.get(model, 0)):
            self.yields.labels(model).inc(max(0, stats.num_yields - yields))
            self._last_yields[model] = stats.num_yields

    def count_request(
        self, model: str, tenant: str, prompt_tokens: int, output_tokens: int
    ) -> None:
        """A generation of a tenant is over. Does nothing unless tenants are counted."""
        if self.by_tenant is None:
            return
        if tenant not in self._tenants:
            if len(self._tenants) < MAX_TENANTS:
                self._tenants.add(tenant)
            else:
                tenant = "other"
        self.by_tenant.requests.labels(model, tenant).inc()
        self.by_tenant.prompt_tokens.labels(model, tenant).inc(prompt_tokens)
        self.by_tenant.generation_tokens.labels(model, tenant).inc(output_tokens)

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
