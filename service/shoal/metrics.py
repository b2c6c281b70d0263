"""All Prometheus metrics. Names are part of the API; buckets suit CPU speeds (1 ms to 60 s)."""

from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shoal.protocol.messages import StepOutputs

_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _StepMetrics(NamedTuple):
    """Metrics updated by every step of one model, with their labels resolved."""

    batch_size: Histogram
    step_seconds: Histogram
    generation_tokens: Counter
    cpu_seconds: Counter


class Metrics:
    """The metrics of one server process, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
        self.cpu_seconds = counter("cpu_seconds_total", "CPU time of the engine's steps")
        self.preemptions = counter("preemptions_total", "Sequences preempted for lack of KV blocks")
        self.running = gauge("requests_running", "Sequences in the batch")
        self.waiting = gauge("requests_waiting", "Sequences waiting for a row")
        self.queue_tokens = gauge("queue_tokens", "Prompt tokens waiting")
        self.kv_used = gauge("kv_blocks_used", "KV blocks held by sequences")
        self.kv_total = gauge("kv_blocks_total", "KV blocks of the pool")
        self.model_state = gauge("model_state", "1 for the state a model is in", ("model", "state"))
        self.loop_lag = gauge("loop_lag_seconds", "Event loop lag", ())
        self.queue_seconds = histogram("queue_seconds", "From submission to the first step")
        self.ttft = histogram("time_to_first_token_seconds", "From submission to the first token")
        self.inter_token = histogram("inter_token_seconds", "Mean time between a request's tokens")
        self.request_seconds = histogram("request_seconds", "Whole requests")
        self.batch_size = histogram("batch_size", "Sequences in a step", _ROWS)
        self.step_seconds = histogram("step_seconds", "One engine step")

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
        num_forced = sum(map(len, outputs.forced.values()))
        step_metrics.generation_tokens.inc(len(outputs.token_ids) + num_forced)
        step_metrics.cpu_seconds.inc(outputs.cpu_s)
        before = self._last_preemptions.get(model, 0)
        if stats.num_preemptions != before:
            # A restarted engine starts counting at zero.
            self.preemptions.labels(model).inc(max(0, stats.num_preemptions - before))
            self._last_preemptions[model] = stats.num_preemptions

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)
