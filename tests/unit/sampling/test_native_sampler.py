"""A runner that samples natively gives what one that samples with numpy gives, step by step."""

from typing import Any

import pytest

from shoal.kernels import native
from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.params import OutputParams
from shoal.protocol.step import StepResult
from shoal.sampling.native import NativeSampler
from shoal.sampling.sampler import Sampler
from tests.unit.runner.building import VOCAB, EchoBestBackend, make_runner, new_row, plan

pytestmark = pytest.mark.skipif(not native.available(), reason="native kernels are not built")

PROMPT = [3, 1, 4, 1]
WISHES: list[dict[str, Any]] = [
    {"temperature": 2.0, "seed": 2**64 - 1, "top_k": 10**9},
    {"temperature": 3.0, "seed": 4, "top_k": 20, "output": OutputParams(logprobs=3)},
    {"temperature": 1.5, "presence_penalty": 1.5, "frequency_penalty": -0.5, "seed": 9},
    {"temperature": 4.0, "repetition_penalty": 1.3, "top_p": 0.9},
    {"temperature": 2.5, "logit_bias": ((5, 4.0), (6, -100.0)), "typical_p": 0.8},
    {"temperature": 5.0, "min_tokens": 6, "stop_token_ids": tuple(range(40)), "min_p": 0.01},
    {"logit_bias": ((7, 50.0),)},
    {},
]


def run_steps(sampler: Sampler | None, num_steps: int = 11) -> list[StepResult]:
    runner = make_runner(EchoBestBackend(), sampler=sampler)
    rows = [
        new_row(index, [*PROMPT, index], [4 * index + i for i in range(4)], **wishes)
        for index, wishes in enumerate(WISHES)
    ]
    count = len(rows)
    results = [runner.run(plan(*((i, 0, 5) for i in range(count)), new=rows))]
    for step in range(1, num_steps):
        if step == 6:  # the batch changes: one row leaves
            results.append(runner.run(plan(*((i, 10, 1) for i in range(1, count)), released=[0])))
            continue
        order = range(count) if step < 6 else range(1, count)
        if step > 8:  # the same rows, the other way round
            order = order[::-1]
        results.append(runner.run(plan(*((i, 4 + step, 1) for i in order))))
    return results


def assert_close(found: TokenLogprobs, wanted: TokenLogprobs) -> None:
    assert (found.token_id, found.top_ids) == (wanted.token_id, wanted.top_ids)
    assert found.logprob == pytest.approx(wanted.logprob, abs=1e-6)
    assert found.top_logprobs == pytest.approx(wanted.top_logprobs, abs=1e-6)


def test_tokens_are_those_of_numpy_whatever_a_row_asks() -> None:
    found, wanted = run_steps(NativeSampler(VOCAB, vocab_size=VOCAB + 3)), run_steps(None)
    assert [step.token_ids for step in found] == [step.token_ids for step in wanted]
    assert len({tuple(step.token_ids) for step in found}) == len(found)
    for step, twin in zip(found, wanted, strict=True):
        assert step.errors == twin.errors == {}
        assert step.logprobs.keys() == twin.logprobs.keys()
        for seq_id, logprobs in step.logprobs.items():
            assert_close(logprobs, twin.logprobs[seq_id])


def test_a_row_that_bans_every_token_fails_alone() -> None:
    runner = make_runner(EchoBestBackend(), sampler=NativeSampler(VOCAB, vocab_size=VOCAB + 3))
    rows = [
        new_row(0, PROMPT, [0], temperature=1.0),
        new_row(1, PROMPT, [1], temperature=1.0, min_tokens=2, stop_token_ids=tuple(range(VOCAB))),
    ]
    result = runner.run(plan((0, 0, 4), (1, 0, 4), new=rows))
    assert result.errors == {1: "no_token_left"}
    assert result.token_ids[0] is not None
    assert result.token_ids[1] is None
