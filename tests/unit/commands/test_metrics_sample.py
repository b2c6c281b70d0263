"""What `shoal top` reads out of two looks at /metrics, with the server's own metrics."""

import pytest

from shoal.commands.metrics_sample import Sample, compare
from shoal.commands.top import _table
from shoal.metrics import Metrics


def look(metrics: Metrics, at_s: float) -> Sample:
    return Sample.parse(metrics.render().decode(), at_s)


def ready(metrics: Metrics, model: str = "m") -> None:
    for state in ("loading", "ready", "failed"):
        metrics.model_state.labels(model, state).set(state == "ready")


def test_rates_are_those_of_the_time_in_between() -> None:
    metrics = Metrics()
    ready(metrics)
    metrics.generation_tokens.labels("m").inc(1000)
    metrics.batch_size.labels("m").observe(64)
    before = look(metrics, 10.0)
    metrics.generation_tokens.labels("m").inc(300)
    metrics.prompt_tokens.labels("m").inc(50)
    metrics.cpu_seconds.labels("m").inc(1.5)
    for rows in (2, 4, 4, 2):
        metrics.batch_size.labels("m").observe(rows)
    for seconds in (0.004, 0.02, 0.02, 0.02):
        metrics.ttft.labels("m").observe(seconds)
    metrics.running.labels("m").set(3)
    metrics.kv_used.labels("m").set(25)
    metrics.kv_total.labels("m").set(100)
    (rates,) = compare(before, look(metrics, 12.0)).models
    assert (rates.model, rates.state, rates.running) == ("m", "ready", 3)
    assert (rates.tokens_per_s, rates.prompt_tokens_per_s, rates.cores) == (150, 25, 0.75)
    assert (rates.batch_size, rates.kv_share) == (3, 0.25)
    assert rates.first_token_s == pytest.approx(0.010 + 0.015 / 3)  # in its bucket, 10 to 25 ms
    assert rates.between_tokens_s is None


def test_a_server_that_began_anew_has_no_rates_at_first() -> None:
    first, second = Metrics(), Metrics()
    ready(first)
    ready(second)
    first.generation_tokens.labels("m").inc(1000)
    second.generation_tokens.labels("m").inc(10)
    (rates,) = compare(look(first, 1.0), look(second, 2.0)).models
    assert rates.tokens_per_s is None
    assert compare(None, look(second, 2.0)).models[0].tokens_per_s is None


def test_a_model_that_came_meanwhile_is_counted_from_zero() -> None:
    metrics = Metrics()
    before = look(metrics, 1.0)
    ready(metrics, "new")
    metrics.generation_tokens.labels("new").inc(10)
    (rates,) = compare(before, look(metrics, 2.0)).models
    assert (rates.model, rates.tokens_per_s) == ("new", 10)


def test_what_is_no_metrics_page_is_refused() -> None:
    with pytest.raises(ValueError):
        Sample.parse("<html>not found {</html>", 0.0)


def test_a_narrow_terminal_has_fewer_columns_and_keeps_the_throughput() -> None:
    metrics = Metrics()
    ready(metrics, "a-model")
    view = compare(look(metrics, 1.0), look(metrics, 2.0))
    titles = {width: [str(c.header) for c in _table(view, width).columns] for width in (200, 60, 5)}
    assert len(titles[200]) == 12
    assert titles[60][:3] == ["model", "state", "tokens/s"]
    assert titles[5] == ["model", "tokens/s", "running"]
