"""Numbers from made-up records."""

import pytest

from shoal.commands.bench.http import Address
from shoal.commands.bench.load import LevelRun, RequestRecord, Target, Workload
from shoal.commands.bench.report import Report, as_json, notes
from shoal.commands.bench.stats import level_stats, percentile, percentiles_ms


def make_run(*records: RequestRecord, window_s: float = 10.0, cpu_s: float = 0.0) -> LevelRun:
    return LevelRun(
        4, 0.0, sending_ended_at=window_s, ended_at=20.0, cpu_s=cpu_s, records=list(records)
    )


def make_report(run: LevelRun, max_tokens: int = 4, load_before: float = 0.0) -> Report:
    work = Workload(Address("http", "::1", 1), "m", max_tokens=max_tokens, api_key="sk-secret")
    environment = {"usable_cores": 2.0, "load_before": load_before}
    return Report("2026-01-01", Target(work, None, ()), environment, (level_stats(run),))


def test_percentiles_interpolate_between_ranks() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0, 5.0], 0.5) == 3.0
    assert percentile([1.0, 2.0], 0.9) == pytest.approx(1.9)
    assert percentile([7.0], 0.99) == 7.0


def test_percentiles_are_milliseconds_whatever_the_order() -> None:
    values = percentiles_ms([i / 1000 for i in range(100, -1, -1)])
    assert values is not None
    assert (values.p50, values.p90, values.p99) == pytest.approx((50, 90, 99))
    assert (values.min, values.max, values.count) == (0, 100, 101)
    assert percentiles_ms([]) is None


def test_first_token_gaps_and_whole_time_come_from_the_right_moments() -> None:
    stats = level_stats(make_run(RequestRecord(1.0, 3.0, [1.5, 1.6, 1.8], 5, 3)))
    assert stats.ttft_ms is not None
    assert stats.ttft_ms.p50 == pytest.approx(500)
    assert stats.inter_token_ms is not None
    assert (stats.inter_token_ms.min, stats.inter_token_ms.max) == pytest.approx((100, 200))
    assert stats.latency_ms is not None
    assert stats.latency_ms.p50 == pytest.approx(2000)


def test_only_tokens_inside_the_window_make_the_rate() -> None:
    record = RequestRecord(8.0, 12.0, [9.0, 10.0, 11.0, 12.0], 5, 4)
    stats = level_stats(make_run(record))
    assert stats.output_tokens_per_s == pytest.approx(0.2)
    assert stats.requests_per_s == 0.0
    assert stats.output_tokens == 4


def test_chunks_of_several_tokens_are_scaled_to_the_servers_count() -> None:
    stats = level_stats(make_run(RequestRecord(0.0, 2.0, [1.0, 2.0], 5, 8)))
    assert (stats.output_tokens_per_s, stats.tokens_counted_by) == (pytest.approx(0.8), "usage")


def test_without_usage_chunks_are_counted_and_it_says_so() -> None:
    stats = level_stats(make_run(RequestRecord(0.0, 2.0, [1.0, 2.0])))
    assert (stats.output_tokens, stats.tokens_counted_by) == (2, "chunks")


def test_an_unstreamed_answer_is_spread_over_its_time() -> None:
    stats = level_stats(make_run(RequestRecord(5.0, 15.0, [], 5, 40)))
    assert stats.output_tokens_per_s == pytest.approx(2.0)
    assert stats.ttft_ms is None


def test_failures_are_counted_by_name_and_leave_latencies_alone() -> None:
    stats = level_stats(
        make_run(
            RequestRecord(0.0, 2.0, [1.0], 5, 1),
            RequestRecord(0.0, 9.0, [8.0], error="stream_cut"),
            RequestRecord(0.0, 0.1, error="503 server_is_overloaded"),
            RequestRecord(0.0, 0.1, error="503 server_is_overloaded"),
        )
    )
    assert stats.errors == {"503 server_is_overloaded": 2, "stream_cut": 1}
    assert (stats.num_completed, stats.num_failed) == (1, 3)
    assert stats.ttft_ms is not None
    assert stats.ttft_ms.max == 1000


def test_a_level_without_any_request_has_no_numbers_but_no_error_either() -> None:
    stats = level_stats(make_run())
    assert (stats.output_tokens_per_s, stats.ttft_ms, stats.num_failed) == (0, None, 0)


def test_a_busy_generator_is_warned_about() -> None:
    record = RequestRecord(0.0, 2.0, [1.0] * 4, 5, 4)
    (note,) = notes(make_report(make_run(record, cpu_s=15.0)))
    assert "75% of one core" in note
    assert notes(make_report(make_run(record, cpu_s=13.0))) == []


def test_answers_that_ended_early_are_noted() -> None:
    (note,) = notes(make_report(make_run(RequestRecord(0.0, 2.0, [1.0], 5, 2)), max_tokens=4))
    assert "2 of 4 tokens" in note


def test_the_json_has_every_percentile_and_no_key() -> None:
    values = as_json(make_report(make_run(RequestRecord(0.0, 2.0, [1.0, 1.5], 5, 4))))
    level = values["levels"][0]
    for name in ("ttft_ms", "inter_token_ms", "latency_ms"):
        assert {"p50", "p90", "p99", "mean", "min", "max", "count"} == set(level[name])
    assert "sk-secret" not in str(values)
    assert "sk-secret" not in repr(make_report(make_run()))


def test_a_machine_that_was_busy_before_is_noted() -> None:
    run = make_run(RequestRecord(0.0, 2.0, [1.0] * 4, 5, 4))
    (note,) = notes(make_report(run, load_before=3.0))
    assert "load 3.0 on 2 cores" in note
    assert notes(make_report(run, load_before=0.3)) == []
