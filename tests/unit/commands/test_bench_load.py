"""The load generator against a real server on loopback with known delays and faults."""

import time
from dataclasses import replace
from typing import Any

import pytest

from shoal.commands.bench.http import parse_address
from shoal.commands.bench.load import Limits, ProbeFailed, Workload, probe, run_level
from shoal.commands.bench.prompts import make_prompt
from shoal.commands.bench.stats import LevelStats, level_stats

from .fake_openai import FakeServer, running


def make_work(server: FakeServer, **changes: Any) -> Workload:
    work = Workload(parse_address(server.url), "tiny-a", max_tokens=10, prompt_words=6)
    return replace(work, **changes)


async def level(
    server: FakeServer, concurrency: int = 2, requests: int = 6, **changes: Any
) -> LevelStats:
    run = await run_level(make_work(server, **changes), concurrency, Limits(requests))
    return level_stats(run)


@pytest.mark.parametrize("api", ["completions", "chat"])
async def test_known_delays_give_known_percentiles(api: str) -> None:
    with running(FakeServer(first_delay_s=0.08, token_delay_s=0.02)) as server:
        stats = await level(server, api=api)
    assert (stats.num_completed, stats.num_failed, stats.output_tokens) == (6, 0, 60)
    assert stats.ttft_ms
    assert stats.inter_token_ms
    assert stats.latency_ms
    # A sleep is never shorter than asked; how much longer depends on who else uses the machine.
    assert 79 <= stats.ttft_ms.p50 < 400
    assert 19 <= stats.inter_token_ms.p50 < 150
    assert 255 <= stats.latency_ms.p50 < 2000
    assert stats.inter_token_ms.count == 6 * 9
    assert stats.ttft_ms.p50 <= stats.ttft_ms.p90 <= stats.ttft_ms.p99 <= stats.ttft_ms.max


async def test_clients_run_at_the_same_time() -> None:
    with running(FakeServer(first_delay_s=0.5)) as server:
        run = await run_level(make_work(server), 8, Limits(8))
    assert run.ended_at - run.started_at < 8 * 0.5


async def test_a_duration_ends_the_sending_and_waits_for_what_was_begun() -> None:
    with running(FakeServer(first_delay_s=0.25)) as server:
        before = time.monotonic()
        run = await run_level(make_work(server), 2, Limits(duration_s=0.6))
        passed = time.monotonic() - before
    assert run.sending_ended_at - run.started_at == pytest.approx(0.6)
    assert all(record.sent_at <= run.sending_ended_at for record in run.records)
    assert all(record.error is None for record in run.records)
    assert len(run.records) >= 4
    assert passed < 5


async def test_failed_requests_are_counted_by_status_and_code() -> None:
    fault = FakeServer(fail_with=(503, "server_is_overloaded"), fail_every=2)
    with running(fault) as server:
        stats = await level(server, concurrency=1)
    assert stats.errors == {"503 server_is_overloaded": 3}
    assert stats.num_completed == 3
    assert sum(body["max_tokens"] == 10 for body in server.asked) == 6  # nothing was sent twice


async def test_a_stream_that_breaks_off_is_counted_as_cut() -> None:
    with running(FakeServer(cut_after=3)) as server:
        stats = await level(server)
    assert stats.errors == {"stream_cut": 6}


async def test_an_error_inside_a_stream_is_counted_with_its_code() -> None:
    with running(FakeServer(error_event_after=3)) as server:
        stats = await level(server)
    assert stats.errors == {"stream_error internal_error": 6}


async def test_an_answer_that_takes_too_long_is_a_timeout() -> None:
    with running(FakeServer(token_delay_s=0.2)) as server:
        stats = await level(server, requests=2, timeout_s=0.3, max_tokens=12)
    assert stats.errors == {"timeout": 2}


async def test_a_plain_answer_has_latency_and_tokens_but_no_first_token() -> None:
    with running(FakeServer(first_delay_s=0.05)) as server:
        stats = await level(server, stream=False)
    assert (stats.output_tokens, stats.ttft_ms, stats.inter_token_ms) == (60, None, None)
    assert stats.latency_ms
    assert stats.latency_ms.min >= 49


async def test_tokens_come_from_usage_when_chunks_hold_several() -> None:
    with running(FakeServer(tokens_per_chunk=5)) as server:
        assert (await level(server)).output_tokens == 60


async def test_a_kept_connection_is_used_again() -> None:
    with running(FakeServer()) as server:
        await level(server, concurrency=2)
        kept = server.num_connections
        await level(server, concurrency=2, keep_alive=False)
    assert kept == 2
    assert server.num_connections - kept == 8  # two warm-ups, six requests


async def test_every_client_is_warmed_up_before_the_measurement() -> None:
    with running(FakeServer()) as server:
        await level(server, concurrency=3, requests=3)
    assert [body["max_tokens"] for body in server.asked] == [8, 8, 8, 10, 10, 10]


async def test_no_two_requests_have_the_same_prompt() -> None:
    with running(FakeServer()) as server:
        await level(server, concurrency=1)
        await level(server, concurrency=2)
    prompts = [body["prompt"] for body in server.asked]
    assert len(set(prompts)) == len(prompts)


def test_prompts_depend_on_seed_and_label_and_nothing_else() -> None:
    assert make_prompt(1, "a", 20) == make_prompt(1, "a", 20)
    assert make_prompt(1, "a", 20) != make_prompt(2, "a", 20) != make_prompt(2, "b", 20)
    assert len(make_prompt(1, "a", 20, shared_prefix=5).split()) == 25


def test_a_shared_prefix_is_shared_and_the_rest_is_not() -> None:
    one, other = (make_prompt(1, label, 20, shared_prefix=5).split() for label in "ab")
    assert one[:5] == other[:5]
    assert one[5:] != other[5:]


async def test_the_probe_finds_the_model_and_the_servers_version() -> None:
    with running(FakeServer()) as server:
        target = await probe(make_work(server, model=""))
    assert target.work.model == "tiny-a"
    assert target.server_version == {"version": "fake-1"}
    assert target.notes == ()


async def test_fields_the_server_refuses_are_left_out_with_a_note() -> None:
    refusing = FakeServer(refused_fields=frozenset({"ignore_eos", "stream_options"}))
    with running(refusing) as server:
        target = await probe(make_work(server))
        stats = level_stats(await run_level(target.work, 1, Limits(2)))
    assert not target.work.ignore_eos
    assert not target.work.include_usage
    assert [note.split()[0] for note in target.notes] == ["ignore_eos", "stream_options", "the"]
    assert (stats.num_completed, stats.tokens_counted_by) == (2, "chunks")


async def test_a_server_that_refuses_everything_is_not_measured() -> None:
    with running(FakeServer(refused_fields=frozenset({"prompt"}))) as server:
        work = make_work(server)
        with pytest.raises(ProbeFailed, match="400 unknown_parameter"):
            await probe(work)


async def test_without_a_server_the_probe_says_how_to_start_one() -> None:
    with running(FakeServer()) as server:
        pass
    with pytest.raises(ProbeFailed, match=r"no server at .*: start one with `shoal serve`"):
        await probe(make_work(server))
