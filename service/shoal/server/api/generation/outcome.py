"""Records the outcome of a request in the access log and the metrics."""

import time

from shoal.errors import ClientGone, ShoalError
from shoal.server.context import RequestContext
from shoal.server.services import Services
from shoal.text.generator import Generation


def record_outcome(
    services: Services, generation: Generation, context: RequestContext, outcome: ShoalError | None
) -> None:
    """Records token counts and times; `outcome` is the error that ended the request, if any."""
    usage, timings, metrics = generation.usage, generation.timings, services.metrics
    model = context.model
    now = time.monotonic()
    context.log_fields.update(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )
    services.usage.record(
        context.tenant,
        model,
        usage,
        cpu_seconds=usage.cpu_seconds,
        cost=services.price.amount(usage.cpu_seconds),
    )
    metrics.prompt_tokens.labels(model).inc(usage.prompt_tokens)
    metrics.cached_tokens.labels(model).inc(usage.cached_tokens)
    metrics.count_request(model, context.tenant, usage.prompt_tokens, usage.completion_tokens)
    metrics.request_seconds.labels(model).observe(now - timings.submitted)
    if timings.first_token is not None:
        if not generation.task.output.embedding:
            ttft_s = timings.first_token - timings.submitted
            context.log_fields["ttft_ms"] = round(ttft_s * 1000, 1)
            metrics.ttft.labels(model).observe(ttft_s)
        metrics.queue_seconds.labels(model).observe(timings.queue_s)
        per_choice = usage.completion_tokens / generation.task.num_sequences
        if per_choice > 1:
            gap_s = (now - timings.first_token) / (per_choice - 1)
            metrics.inter_token.labels(model).observe(gap_s)
    if outcome is not None:
        context.log_fields["error"] = outcome.code
        reason = "disconnect" if isinstance(outcome, ClientGone) else str(outcome.code)
        metrics.cancelled.labels(model, reason).inc()
        if isinstance(outcome, ClientGone):
            context.log_fields["status"] = outcome.status
