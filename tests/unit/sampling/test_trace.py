"""A trace says of each step what an independent sampler finds, and of the draw what happened."""

from typing import Any

import msgspec
import numpy as np
import pytest

from shoal.kernels.native import available
from shoal.protocol.params import SamplingParams
from shoal.protocol.trace import TokenTrace
from shoal.sampling.arrays import Float32
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.sampler import Sampler, SamplingState
from shoal.sampling.trace import trace_token
from tests.unit.sampling.building import make_state
from tests.unit.sampling.twin import adjusted, kept_probabilities, uniform_of

VOCAB, COLUMNS = 700, 720
POSITION = 12
PROMPT, OUTPUT = [3, 5, 8, 5], [8, 13, 21, 8]

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 9},
    "top_p": {"top_p": 0.7},
    "typical_p": {"typical_p": 0.6},
    "min_p": {"min_p": 0.2},
    "all": {"temperature": 0.8, "top_k": 60, "top_p": 0.9, "typical_p": 0.8, "min_p": 0.05},
    "bias": {"logit_bias": ((5, 4.0), (600, -100.0)), "top_k": 5},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2,
                  "top_p": 0.9},
    "greedy with penalties": {"temperature": 0.0, "presence_penalty": 1.0},
}  # fmt: skip


def random_logits(seed: int) -> Float32:
    """One row; its padding is better than every token."""
    logits = np.random.default_rng(seed).normal(0, 3, COLUMNS).astype(np.float32)
    logits[VOCAB:] = 9.0
    return logits


def samplers() -> list[Sampler]:
    found: list[Sampler] = [NumpySampler(VOCAB)]
    if available():
        from shoal.sampling.native import NativeSampler

        found.append(NativeSampler(VOCAB, vocab_size=COLUMNS))
    return found


def trace(
    logits: Float32, state: SamplingState, sampler: Sampler | None = None, k: int = 3
) -> TokenTrace:
    """Of the token that the sampler takes."""
    sampler = sampler or NumpySampler(VOCAB)
    position = np.array([POSITION], np.int32)
    token_id = int(sampler.sample(logits[None], [state], position)[0])
    (report,) = sampler.logprobs(logits[None], [token_id], [k])
    found = trace_token(logits, state, POSITION, report, num_token_ids=VOCAB)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=TokenTrace) == found
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_leave_what_an_independent_sampler_leaves(name: str) -> None:
    params = SamplingParams(seed=4, **SETTINGS[name])
    for seed in range(20):
        logits = random_logits(seed)
        for sampler in samplers():
            state = make_state(params, prompt=PROMPT, output=OUTPUT, num_token_ids=VOCAB)
            found = trace(logits, state, sampler)
            changed = adjusted(logits[:VOCAB].astype(np.float64), PROMPT, OUTPUT, params)
            if params.greedy:
                assert found.token_id == changed.argmax()
                assert found.uniform is None
                continue
            kept = kept_probabilities(changed, params)
            assert kept[found.token_id] > 0
            assert found.uniform == uniform_of(4, POSITION)
            if found.steps:
                assert found.steps[-1].num_left == (kept > 0).sum()
            whole = kept_probabilities(changed, SamplingParams(0, params.temperature))
            cuts = [s for s in found.steps if s.name in ("top_k", "top_p", "typical_p", "min_p")]
            left = np.prod([1 - step.removed for step in cuts])
            assert left == pytest.approx(whole[kept > 0].sum(), rel=1e-5)
            best = int(logits[:VOCAB].argmax())
            assert (found.removed_by is None) == (kept[best] > 0)


def test_steps_that_are_on_come_in_the_order_of_the_sampler() -> None:
    params = SamplingParams(0, 0.5, 50, 0.9, 0.01, 0.9, 1.2, logit_bias=((1, 2.0),))
    state = make_state(
        params, prompt=PROMPT, min_tokens=2, stop_token_ids=(4,), num_token_ids=VOCAB
    )
    names = [step.name for step in trace(random_logits(1), state).steps]
    assert names == [
        "bias", "min_tokens", "penalties", "temperature", "top_k", "top_p", "typical_p", "min_p",
    ]  # fmt: skip
    assert trace(random_logits(1), make_state(num_token_ids=VOCAB)).steps == []


@pytest.mark.parametrize(
    ("wishes", "step"),
    [
        ({"logit_bias": ((2, -100.0),)}, "bias"),
        ({"logit_bias": ((2, -100.0),), "temperature": 0.0}, "bias"),
        ({"repetition_penalty": 10.0, "top_k": 1}, "top_k"),
        ({"presence_penalty": 2.0, "temperature": 0.01, "min_p": 0.5}, "min_p"),
    ],
)
def test_the_step_that_removed_the_best_token_is_named(wishes: dict[str, Any], step: str) -> None:
    logits = np.zeros(COLUMNS, np.float32)
    logits[2], logits[7] = 25.0, 24.0
    state = make_state(SamplingParams(0, **wishes), output=[2], num_token_ids=VOCAB)
    found = trace(logits, state)
    assert found.removed_by == step
    assert (found.token_id, found.rank) == (7, 2)


def test_a_mask_is_a_step_of_its_processor() -> None:
    class OnlySeven:
        name = "grammar"
        allow_mask = np.zeros(-(-VOCAB // 32), np.uint32)
        allow_mask[0] = 1 << 7

        def apply(self, logits: Float32) -> None: ...

        def accept(self, token_id: int) -> None: ...

    state = make_state(SamplingParams(0), num_token_ids=VOCAB)
    state.processors = state.first_processors = (OnlySeven(),)  # type: ignore[assignment]
    found = trace(random_logits(3), state)
    assert found.token_id == 7
    assert found.steps[-1].name == found.removed_by == "grammar"
    assert found.steps[-1].num_left == 1
    probs = np.exp(random_logits(3)[:VOCAB].astype(np.float64))
    assert found.steps[-1].removed == pytest.approx(1 - probs[7] / probs.sum())


def test_numbers_of_the_model_are_raw() -> None:
    """No matter what the sampler does; entropy over all columns, like the log-probabilities."""
    logits = random_logits(5)
    wide = logits.astype(np.float64)
    logprobs = wide - np.log(np.exp(wide).sum())
    for wishes in SETTINGS.values():
        found = trace(logits, make_state(SamplingParams(1, **wishes), num_token_ids=VOCAB))
        order = np.lexsort((np.arange(VOCAB), -wide[:VOCAB]))
        assert order[found.rank - 1] == found.token_id
        assert found.entropy == pytest.approx(-(np.exp(logprobs) * logprobs).sum())
        assert found.logprob == pytest.approx(logprobs[found.token_id], abs=1e-5)
        assert found.top_ids == order[:3].tolist()


def test_of_equal_tokens_the_lower_id_has_the_better_rank() -> None:
    logits = np.zeros(COLUMNS, np.float32)
    state = make_state(SamplingParams(0, temperature=0.0), num_token_ids=VOCAB)
    found = trace(logits, state)
    assert (found.token_id, found.rank) == (0, 1)
    (report,) = NumpySampler(VOCAB).logprobs(logits[None], [9], [0])
    assert trace_token(logits, state, 0, report, num_token_ids=VOCAB).rank == 10


def test_a_trace_leaves_logits_and_state_alone() -> None:
    logits = random_logits(6)
    before = logits.copy()
    params = SamplingParams(3, presence_penalty=1.0, top_k=8)
    state = make_state(params, prompt=PROMPT, num_token_ids=VOCAB)
    first, second = trace(logits, state), trace(logits, state)
    assert first == second
    np.testing.assert_array_equal(logits, before)
