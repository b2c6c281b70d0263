"""The native sampler picks the token its twin of numpy picks, on every kernel set."""

from typing import Any

import numpy as np
import pytest

from shoal.kernels.native import KernelSet, available, kernel_sets
from shoal.kernels.sampling import Float32, Int32, NativeSampler, RowArrays, RowParams
from shoal.protocol.params import SamplingParams
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.random import uniforms
from shoal.sampling.truncation import keep_typical
from tests.unit.sampling.building import make_state

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

SETS: list[Any] = list(kernel_sets())
EDGE = 1e-6
VOCABULARIES = [1, 5, 64, 259, 1000, 4096]
ALWAYS_OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


def make_params(wishes: list[SamplingParams], positions: list[int]) -> RowParams:
    return RowParams(
        temperature=np.array([w.temperature for w in wishes], np.float32),
        top_k=np.array([w.top_k for w in wishes], np.int32),
        top_p=np.array([w.top_p for w in wishes]),
        min_p=np.array([w.min_p for w in wishes]),
        typical_p=np.array([w.typical_p for w in wishes]),
        seed=np.array([w.seed for w in wishes], np.uint64),
        position=np.array(positions, np.uint64),
    )


def random_wishes(rng: np.random.Generator, num_rows: int, *names: str) -> list[SamplingParams]:
    """Rows that ask for some of the named truncations, each off now and then."""
    ranges: dict[str, list[Any]] = {
        "top_k": [0, 1, 7, 50, 300, 2000, 10**6],
        "top_p": [1.0, 0.0, 0.1, 0.5, 0.9, 0.95, 0.999],
        "min_p": [0.0, 1e-6, 0.01, 0.1, 0.5, 1.0],
        "typical_p": [1.0, 0.2, 0.9],
    }
    return [
        SamplingParams(
            seed=int(rng.integers(1 << 63)) * 2 + 1,
            temperature=float(rng.choice([0.01, 0.3, 0.7, 1.0, 1.0, 2.0, 100.0])),
            **ALWAYS_OFF | {name: rng.choice(ranges[name]).item() for name in names},
        )
        for _ in range(num_rows)
    ]


def random_logits(rng: np.random.Generator, num_rows: int, vocab: int) -> Float32:
    """Flat and peaked rows, rows of ties, rows with banned tokens, one-hot rows."""
    logits = rng.standard_normal((num_rows, vocab)) * rng.choice(
        [0.0, 0.02, 1, 3, 8], (num_rows, 1)
    )
    kinds = rng.integers(0, 5, num_rows)
    logits[kinds == 1] = np.round(logits[kinds == 1])
    for row in np.flatnonzero(kinds == 2):
        logits[row, rng.random(vocab) < 0.5] = -np.inf
    for row in np.flatnonzero(kinds == 3):
        logits[row, rng.integers(vocab)] += rng.choice([5, 15, 200])
    return logits.astype(np.float32)


def is_near(at: float, places: Any) -> bool:
    return bool((np.abs(np.asarray(places) - at) < EDGE).any())


def is_at_an_edge(logits: Float32, wish: SamplingParams, position: int) -> bool:
    """In float64: does a cut or the draw lie within EDGE of the place where it turns over?"""
    scaled = (logits - logits.max()) / np.float32(wish.temperature)
    is_plain = {name: getattr(wish, name) for name in ALWAYS_OFF} == ALWAYS_OFF
    order = np.arange(len(scaled)) if is_plain else np.argsort(-scaled, kind="stable")
    probs = np.exp(scaled[order].astype(np.float64))
    if 0 < wish.top_k < len(probs):
        probs[wish.top_k :] = 0
    shares = np.cumsum(probs) / probs.sum()
    if wish.top_p < 1.0:
        if is_near(wish.top_p, shares):
            return True
        probs[1:][shares[:-1] >= wish.top_p] = 0
    if wish.typical_p < 1.0:
        kept = probs[probs > 0] / probs.sum()
        surprise = -np.log(kept)
        distance = np.abs(surprise - (kept * surprise).sum())
        by_distance = np.argsort(distance, kind="stable")
        gaps = np.diff(np.sort(np.unique(distance)))
        if is_near(wish.typical_p, np.cumsum(kept[by_distance])) or (gaps < EDGE).any():
            return True
        keep_typical(probs, wish.typical_p)
    if wish.min_p > 0 and is_near(wish.min_p, probs[probs < probs.max()] / probs.max()):
        return True
    probs[probs < wish.min_p * probs.max()] = 0
    uniform = uniforms(np.array([wish.seed], np.uint64), np.array([position], np.uint64))[0]
    return is_near(float(uniform), np.cumsum(probs) / probs.sum())


def numpy_tokens(logits: Float32, wishes: list[SamplingParams], positions: list[int]) -> Int32:
    states = [make_state(wish) for wish in wishes]
    return NumpySampler(logits.shape[1]).sample(logits, states, np.array(positions, np.int32))


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize(
    "names",
    [(), ("top_k",), ("top_p",), ("min_p",), ("typical_p",), ("top_k", "top_p"),
     ("top_p", "min_p"), ("top_k", "top_p", "min_p"), ("top_k", "top_p", "min_p", "typical_p")],
    ids="+".join,
)  # fmt: skip
def test_the_token_is_the_one_of_numpy(
    kernel_set: KernelSet, vocab: int, names: tuple[str, ...]
) -> None:
    rng = np.random.default_rng([vocab, len(names)])
    num_rows = 60 if "typical_p" in names or vocab > 1000 else 300
    logits = random_logits(rng, num_rows, vocab)
    wishes = random_wishes(rng, num_rows, *names)
    positions = rng.integers(0, 5000, num_rows).tolist()
    wanted = numpy_tokens(logits, wishes, positions)
    before = logits.copy()
    found = NativeSampler(vocab, kernel_set=kernel_set).sample(
        logits, RowArrays(make_params(wishes, positions))
    )
    np.testing.assert_array_equal(logits, before)
    for row in np.flatnonzero(found != wanted):
        assert is_at_an_edge(logits[row], wishes[row], positions[row]), (row, wishes[row])
    assert (found != wanted).sum() <= 1 + num_rows // 50


@pytest.mark.parametrize("kernel_set", SETS)
def test_greedy_rows_pick_the_lowest_id_of_the_best(kernel_set: KernelSet) -> None:
    rng = np.random.default_rng(1)
    for vocab in VOCABULARIES:
        logits = random_logits(rng, 50, vocab)
        wishes = [SamplingParams(seed=0, temperature=0.0, top_p=0.5)] * 50
        found = NativeSampler(vocab, kernel_set=kernel_set).sample(
            logits, RowArrays(make_params(wishes, [0] * 50))
        )
        finite = np.isfinite(logits.max(axis=1))
        np.testing.assert_array_equal(found, np.where(finite, logits.argmax(axis=1), -1))


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 63, 64, 100, 258])
def test_a_row_without_a_finite_best_gives_no_token_and_harms_no_other(
    kernel_set: KernelSet, bad: float, place: int
) -> None:
    logits = np.random.default_rng(2).standard_normal((6, 259)).astype(np.float32)
    logits[1::2, place] = bad
    logits[3] = -np.inf
    wishes = [SamplingParams(seed=i, top_p=(1.0, 0.9)[i // 2 % 2]) for i in range(6)]
    sampler = NativeSampler(259, kernel_set=kernel_set)
    found = sampler.sample(logits, RowArrays(make_params(wishes, [3] * 6)))
    np.testing.assert_array_equal(found, numpy_tokens(logits, wishes, [3] * 6))
    assert found[1::2].tolist() == [-1, -1, -1]
    own, ids, _ = sampler.logprobs(logits, np.zeros(6, np.int32), np.full(6, 3, np.int32))
    assert np.isneginf(own[1::2]).all()
    assert (ids[1::2] == -1).all()
    assert np.isfinite(own[::2]).all()


@pytest.mark.parametrize("kernel_set", SETS)
def test_a_row_alone_gives_what_it_gives_in_a_batch(kernel_set: KernelSet) -> None:
    rng = np.random.default_rng(3)
    logits = random_logits(rng, 64, 1000)
    wishes = random_wishes(rng, 64, "top_k", "top_p", "min_p")
    sampler = NativeSampler(1000, kernel_set=kernel_set)
    together = sampler.sample(logits, RowArrays(make_params(wishes, list(range(64)))))
    alone = [
        sampler.sample(logits[i : i + 1], RowArrays(make_params(wishes[i : i + 1], [i])))[0]
        for i in reversed(range(64))
    ]
    np.testing.assert_array_equal(together, alone[::-1])
    ids, nums = np.zeros(64, np.int32), np.full(64, 5, np.int32)
    own, best_ids, best = sampler.logprobs(logits, ids, nums)
    for i in range(64):
        line = sampler.logprobs(logits[i : i + 1], ids[:1], nums[:1])
        for part, whole in zip(line, (own, best_ids, best), strict=True):
            np.testing.assert_array_equal(part[0], whole[i])


@pytest.mark.parametrize("kernel_set", SETS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_log_probabilities_are_those_of_numpy(kernel_set: KernelSet, vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = random_logits(rng, 40, vocab)
    token_ids = rng.integers(0, vocab, 40).astype(np.int32)
    nums_best = rng.choice([0, 1, 5, 20, 150], 40).astype(np.int32)
    wanted = NumpySampler(vocab).logprobs(logits, token_ids.tolist(), nums_best.tolist())
    own, ids, best = NativeSampler(vocab, kernel_set=kernel_set).logprobs(
        logits, token_ids, nums_best
    )
    for i, line in enumerate(wanted):
        count = len(line.top_ids)
        np.testing.assert_allclose(own[i], line.logprob, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(best[i, :count], line.top_logprobs, rtol=1e-6, atol=1e-6)
        assert (ids[i, count:] == -1).all()
        different = ids[i, :count] != line.top_ids
        with np.errstate(invalid="ignore"):  # between two banned tokens
            same_value = ~(np.diff(logits[i][ids[i, :count]], append=0) <= -1e-5)
        assert not (different & ~same_value & ~np.roll(same_value, 1)).any()


def test_arrays_that_do_not_fit_are_refused() -> None:
    sampler = NativeSampler(10)
    params = make_params([SamplingParams(seed=0)] * 2, [0, 0])
    for shape in [(2, 11), (3, 10)]:
        with pytest.raises(ValueError, match=r"logits|differ"):
            sampler.sample(np.zeros(shape, np.float32), RowArrays(params))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        sampler.logprobs(
            np.zeros((1, 10), np.float32), np.array([10], np.int32), np.array([1], np.int32)
        )
