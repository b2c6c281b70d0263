"""Thousands of random histories: nothing leaks, nobody waits for ever, no block has two owners, and
every answer is the one of an undisturbed run."""

import random
from typing import Any

import pytest

from shoal.kernels.native import available
from shoal.protocol.messages import ModelSource, Submit
from shoal.protocol.params import SamplingParams, StopParams
from tests.fakes.tiny_models import write_tiny_llama
from tests.faults.histories import run_histories
from tests.faults.measured import Measured
from tests.unit.runner.asking import Asked

FOUND = (4308,)
"""Found a fault once: blocks of a sequence that computes nothing in a step which fails."""


@pytest.mark.parametrize(
    "num_histories",
    [60, pytest.param(10_000, marks=[pytest.mark.faults, pytest.mark.timeout(600)])],
)
def test_random_histories_on_fake_runners(
    num_histories: int, measured: Measured, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "shoal.engine")  # steps fail by the thousand
    tally = run_histories([*FOUND, *range(num_histories)])
    measured(
        f"{num_histories} scheduler histories",
        promised="no leak, no deadlock, every answer as alone",
        measured=f"{tally.steps} steps, {tally.preemptions} preemptions, {tally.yields} yields, "
        f"{tally.whole} whole answers",
    )
    assert tally.preemptions > num_histories // 4
    assert tally.yields > 0
    assert tally.whole > num_histories
    assert {"numerical_error", "internal_error", "server_is_overloaded"} <= tally.codes.keys()


# --- the real native step ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return ModelSource("tiny", str(write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny")))


def ask(rng: random.Random, seq_id: int) -> Submit:
    prompt = [7] * rng.randint(0, 40) + [rng.randint(0, 255) for _ in range(rng.randint(1, 30))]
    return Submit(
        seq_id,
        "tiny",
        prompt,
        SamplingParams(seed=rng.randint(0, 9), temperature=rng.choice((0.0, 1.0))),
        StopParams(rng.randint(1, 40)),
        tenant=rng.choice("aaab"),
    )


def run_native(tiny: ModelSource, seed: int, alone: Any) -> int:
    """One history in a pool that holds about two of its sequences; how often blocks ran out."""
    rng = random.Random(seed)
    engine = Asked(
        tiny,
        kv_cache_bytes=rng.choice((20, 28)) * 16 * 2 * 2 * 2 * 8 * 4,  # blocks of two layers
        num_threads=1,
        max_batch_size=rng.randint(2, 8),
        token_budget=rng.choice((16, 64)),
        max_model_len=128,
        prefix_cache=rng.random() < 0.7,
        max_preemptions=1000,
    )
    submits = [ask(rng, seq_id) for seq_id in range(10)]
    aborted = set()
    for submit in submits:
        engine.core.add(submit)
        for _ in range(rng.randint(0, 6)):
            engine.take_step()
        if rng.random() < 0.1:
            engine.core.abort([submit.seq_id])
            aborted |= {submit.seq_id} - engine.finished.keys()
    while engine.core.has_work:
        engine.take_step()
    for submit in submits:
        said = engine.tokens.get(submit.seq_id, [])
        whole = alone(submit)
        assert said == (whole[: len(said)] if submit.seq_id in aborted else whole)
    (stats,) = engine.core.stats()
    assert stats.num_used_blocks == 0
    return stats.num_preemptions


@pytest.mark.skipif(not available(), reason="native kernels are not built")
@pytest.mark.parametrize(
    "num_histories",
    [10, pytest.param(300, marks=[pytest.mark.faults, pytest.mark.timeout(600)])],
)
def test_random_histories_on_the_native_step(
    tiny: ModelSource, num_histories: int, measured: Measured
) -> None:
    undisturbed = Asked(tiny, kv_cache_bytes=1 << 22, num_threads=1, max_model_len=128)

    def alone(submit: Submit) -> list[int]:
        undisturbed.forget()
        return undisturbed.run(submit)[submit.seq_id]

    num_preemptions = sum(run_native(tiny, seed, alone) for seed in range(num_histories))
    measured(
        f"{num_histories} histories on the native step",
        promised="every answer bit for bit as alone",
        measured=f"all; {num_preemptions} preemptions",
    )
    assert num_preemptions > 0
