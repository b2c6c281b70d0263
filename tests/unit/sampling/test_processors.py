"""Logits processors: what each does, in which order, and that replaying tokens restores them."""

import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.kernels import native
from shoal.protocol.params import SamplingParams
from shoal.protocol.step import NewRow
from shoal.sampling import processors
from shoal.sampling.arrays import Float32, UInt32
from shoal.sampling.native import NativeSampler
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.processors.base import LogitsProcessor
from shoal.sampling.sampler import Sampler
from tests.unit.sampling.building import make_state, sample
from tests.unit.sampling.twin import adjusted

NUM_IDS = 100
SAMPLERS = [
    NumpySampler,
    pytest.param(
        NativeSampler,
        marks=pytest.mark.skipif(not native.available(), reason="native kernels are not built"),
    ),
]
IDS = st.integers(0, NUM_IDS - 1)


def make_logits(seed: int = 4) -> Float32:
    return (np.random.default_rng(seed).standard_normal(NUM_IDS) * 2).astype(np.float32)


def changed(logits: Float32, params: SamplingParams | None = None, **fields: Any) -> Float32:
    copy = logits.copy()
    make_state(params, num_token_ids=NUM_IDS, **fields).apply(copy)
    return copy


class OnlyAbove(LogitsProcessor):
    """Allows the ids above the token accepted last, as a grammar would: by a mask alone."""

    def __init__(self) -> None:
        self._last = -1

    def accept(self, token_id: int) -> None:
        self._last = token_id

    @property
    def allow_mask(self) -> UInt32:
        words = np.zeros(-(-NUM_IDS // 32), np.uint32)
        for token_id in range(self._last + 1, NUM_IDS):
            words[token_id // 32] |= np.uint32(1 << token_id % 32)
        return words


class OnlyEven(LogitsProcessor):
    @property
    def allow_mask(self) -> UInt32:
        return np.full(-(-NUM_IDS // 32), 0x55555555, np.uint32)


def build_only_above(new: NewRow, num_token_ids: int) -> LogitsProcessor:
    return OnlyAbove()


def build_only_even(new: NewRow, num_token_ids: int) -> LogitsProcessor:
    return OnlyEven()


@pytest.fixture
def with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new option would be added: a file and a line in the registry."""
    registry = (*processors.REGISTRY, build_only_above, build_only_even)
    monkeypatch.setattr(processors, "REGISTRY", registry)


def test_a_sequence_without_options_has_no_processors() -> None:
    assert make_state().processors == ()
    assert make_state(min_tokens=3).processors == ()
    assert make_state(stop_token_ids=(3,)).processors == ()


def test_penalties_and_bias_equal_the_twin_and_transformers() -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    logits = make_logits()
    prompt, output = [3, 3, 8], [8, 9, 9, 9]
    params = SamplingParams(
        seed=0,
        repetition_penalty=1.7,
        presence_penalty=0.5,
        frequency_penalty=-0.3,
        logit_bias=((4, 2.5), (5, -100.0)),
    )
    wanted = adjusted(logits.astype(np.float64), prompt, output, params)
    wanted[11] = -np.inf
    found = changed(
        logits, params, prompt=prompt, output=output, min_tokens=9, stop_token_ids=(11,)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)

    params = SamplingParams(seed=0, repetition_penalty=1.7)
    theirs = process.RepetitionPenaltyLogitsProcessor(1.7)(
        torch.tensor([prompt + output]), torch.from_numpy(logits[None].copy())
    )
    found = changed(logits, params, prompt=prompt, output=output)
    np.testing.assert_array_equal(found, theirs[0].numpy())


def test_a_penalty_sees_the_logits_after_the_bias() -> None:
    params = SamplingParams(seed=0, repetition_penalty=2.0, logit_bias=((7, 10.0),))
    found = changed(np.zeros(NUM_IDS, np.float32), params, prompt=[7])
    assert found[7] == 5.0


@pytest.mark.parametrize("penalty", [1e-20, 1e-39, 1e-46, 10.0])
def test_an_extreme_repetition_penalty_gives_no_infinity_and_no_nan(penalty: float) -> None:
    logits = make_logits()
    logits[:2] = [0.0, -np.inf]
    params = SamplingParams(seed=0, repetition_penalty=penalty, logit_bias=((3, -100.0),))
    found = changed(logits, params, prompt=list(range(50)))
    assert np.isneginf(found[[1, 3]]).all()
    assert np.isfinite(np.delete(found, [1, 3])).all()
    state = make_state(params, prompt=list(range(50)))
    for sampler in (NumpySampler(NUM_IDS), *([NativeSampler(NUM_IDS)] * native.available())):
        assert sample(sampler, logits[None], [(state, 1)])[0] >= 0


def test_stop_ids_are_banned_until_min_tokens_exist() -> None:
    state = make_state(min_tokens=2, stop_token_ids=(5, 6), output=[1])
    for banned in (True, False):
        logits = make_logits()
        state.apply(logits)
        assert np.isneginf(logits[[5, 6]]).all() == banned
        assert np.isfinite(np.delete(logits, [5, 6])).all()
        state.accept(5)


@pytest.mark.parametrize("token_id", [NUM_IDS, -1, 128009, 1 << 70])
def test_an_id_that_cannot_be_sampled_changes_nothing(token_id: int) -> None:
    logits = make_logits()
    params = SamplingParams(seed=0, logit_bias=((token_id, 5.0), (token_id + 1, -100.0)))
    if token_id == -1:
        params = SamplingParams(seed=0, logit_bias=((token_id, 5.0),))
    found = changed(logits, params, min_tokens=3, stop_token_ids=(token_id,))
    np.testing.assert_array_equal(found, logits)


@pytest.mark.usefixtures("with_masks")
@pytest.mark.parametrize("make_sampler", SAMPLERS)
@pytest.mark.parametrize(
    "params",
    [{"temperature": 0.0}, {"temperature": 50.0}, {"temperature": 50.0, "top_p": 0.9}],
    ids=str,
)
def test_a_sampler_draws_only_what_all_masks_allow(
    make_sampler: type[Sampler], params: dict[str, Any]
) -> None:
    sampler = make_sampler(NUM_IDS)  # type: ignore[call-arg]
    logits = np.stack([make_logits(seed) for seed in range(30)])
    states = [
        make_state(SamplingParams(seed=i, **params), output=[3 * i], num_token_ids=NUM_IDS)
        for i in range(30)
    ]
    tokens = sample(sampler, logits, [(state, 1) for state in states])
    for i, token_id in enumerate(tokens):
        assert token_id > 3 * i
        assert token_id % 2 == 0
        if params["temperature"] == 0.0:
            allowed = [j for j in range(3 * i + 1, NUM_IDS) if j % 2 == 0]
            assert token_id == allowed[int(logits[i, allowed].argmax())]
    assert sample(sampler, logits[:1], [(make_state(output=[98]), 1)]) == [-1], "none is allowed"


@pytest.mark.usefixtures("with_masks")
@given(
    prompt=st.lists(IDS, max_size=8),
    output=st.lists(IDS, max_size=12),
    split=st.integers(0, 12),
    min_tokens=st.integers(0, 6),
    stop_token_ids=st.lists(IDS, max_size=3).map(tuple),
    params=st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.sampled_from([0.5, 1.3]),
            "presence_penalty": st.sampled_from([-0.7, 0.4]),
            "frequency_penalty": st.sampled_from([-0.3, 1.9]),
            "logit_bias": st.dictionaries(IDS, st.floats(-101, 100), max_size=4).map(
                lambda bias: tuple(bias.items())
            ),
        },
    ),
)
def test_a_state_rebuilt_after_a_preemption_is_the_one_that_was_lost(
    prompt: list[int],
    output: list[int],
    split: int,
    min_tokens: int,
    stop_token_ids: tuple[int, ...],
    params: dict[str, Any],
) -> None:
    def state_with(known: list[int]) -> Any:
        return make_state(
            SamplingParams(seed=0, **params),
            prompt=prompt,
            output=known,
            min_tokens=min_tokens,
            stop_token_ids=stop_token_ids,
            num_token_ids=NUM_IDS,
        )

    kept = state_with([])
    for token_id in output:
        kept.accept(token_id)
    rebuilt = state_with(output[:split])
    for token_id in output[split:]:
        rebuilt.accept(token_id)
    first, second = make_logits(), make_logits()
    kept.apply(first)
    rebuilt.apply(second)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(kept.allow_mask(), rebuilt.allow_mask())


@pytest.mark.parametrize("params", [
    SamplingParams(0), SamplingParams(0, presence_penalty=1.0),
    SamplingParams(0, presence_penalty=1.0, logit_bias=((1, 2.0),)),
])  # fmt: skip
def test_a_state_is_gone_with_its_row(params: SamplingParams) -> None:
    """Without a collection of cycles, which the engine does not wait for."""
    state = make_state(params, num_token_ids=NUM_IDS)
    assert state.goes_on
    gone = weakref.ref(state)
    del state
    assert gone() is None
