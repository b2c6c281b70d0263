"""no_repeat_ngram_size, DRY and allowed_token_ids against plain loops and peers, and the order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.kernels import native
from shoal.protocol.params import SamplingParams
from shoal.sampling.arrays import Float32
from shoal.sampling.native import NativeSampler
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.processors import REGISTRY
from shoal.sampling.processors.suffix_matches import SuffixMatches
from shoal.sampling.sampler import Sampler
from tests.unit.sampling.building import make_state, sample

NUM_IDS = 40
FEW_IDS = st.lists(st.integers(0, 3), max_size=40)
SAMPLERS = [
    NumpySampler,
    pytest.param(
        NativeSampler,
        marks=pytest.mark.skipif(not native.available(), reason="native kernels are not built"),
    ),
]


def make_logits(seed: int = 4) -> Float32:
    return (np.random.default_rng(seed).standard_normal(NUM_IDS) * 2).astype(np.float32)


def changes(params: SamplingParams, prompt: list[int], output: list[int]) -> Float32:
    """What the processors add to logits of zero."""
    logits = np.zeros(NUM_IDS, np.float32)
    make_state(params, prompt=prompt, output=output, num_token_ids=NUM_IDS).apply(logits)
    return logits


def common_suffixes(tokens: list[int]) -> list[int]:
    lengths = []
    for place in range(len(tokens) - 1):
        length = 0
        while length <= place and tokens[place - length] == tokens[-1 - length]:
            length += 1
        lengths.append(length)
    return lengths


def dry_of_oobabooga(tokens: list[int], params: SamplingParams) -> dict[int, float]:
    """The loop of the text-generation-webui that defined DRY."""
    if not tokens or tokens[-1] in params.dry_breaker_ids:
        return {}
    longest: dict[int, int] = {}
    for i in range(len(tokens) - 1):
        if tokens[i] != tokens[-1] or tokens[i + 1] in params.dry_breaker_ids:
            continue
        length = 1
        while i - length >= 0:
            previous = tokens[-(length + 1)]
            if tokens[i - length] != previous or previous in params.dry_breaker_ids:
                break
            length += 1
        longest[tokens[i + 1]] = max(length, longest.get(tokens[i + 1], 0))
    return {
        token: params.dry_multiplier * params.dry_base ** (length - params.dry_allowed_length)
        for token, length in longest.items()
        if length >= params.dry_allowed_length
    }


@settings(deadline=None)
@given(FEW_IDS, FEW_IDS)
def test_suffix_matches_are_those_of_a_plain_loop(start: list[int], more: list[int]) -> None:
    matches = SuffixMatches(start)
    for token_id in more:
        matches.append(token_id)
    tokens = start + more
    lengths = common_suffixes(tokens)
    for least in (1, 2, 5):
        found, found_lengths = matches.followers(least)
        wanted = [(tokens[i + 1], n) for i, n in enumerate(lengths) if n >= least]
        assert [*zip(found.tolist(), found_lengths.tolist(), strict=True)] == wanted
    assert matches.followers(0)[0].tolist() == tokens


def test_suffix_matches_grow_beyond_their_room() -> None:
    matches = SuffixMatches([])
    for token_id in range(1000):
        matches.append(token_id % 7)
    assert matches.followers(900)[1].tolist() == [n for n in common_suffixes(
        [i % 7 for i in range(1000)]) if n >= 900]  # fmt: skip


@settings(deadline=None)
@given(FEW_IDS, FEW_IDS, st.integers(1, 4))
def test_no_ngram_comes_twice(prompt: list[int], output: list[int], size: int) -> None:
    tokens = prompt + output
    start = tokens[len(tokens) - size + 1 :]
    banned = {
        tokens[i + size - 1]
        for i in range(len(tokens) - size + 1)
        if tokens[i : i + size - 1] == start
    } if len(tokens) >= size else set()  # fmt: skip
    found = changes(SamplingParams(0, no_repeat_ngram_size=size), prompt, output)
    assert set(np.flatnonzero(np.isneginf(found)).tolist()) == banned
    assert np.isin(found, [0, -np.inf]).all()


@settings(deadline=None)
@given(FEW_IDS, FEW_IDS, st.integers(1, 4), st.sets(st.integers(0, 3), max_size=1))
def test_dry_is_that_of_its_definition(
    prompt: list[int], output: list[int], allowed_length: int, breakers: set[int]
) -> None:
    params = SamplingParams(
        0,
        dry_multiplier=0.8,
        dry_allowed_length=allowed_length,
        dry_breaker_ids=tuple(breakers),
    )
    wanted = np.zeros(NUM_IDS)
    for token_id, penalty in dry_of_oobabooga(prompt + output, params).items():
        wanted[token_id] = -penalty
    np.testing.assert_allclose(changes(params, prompt, output), wanted, rtol=1e-6)


def test_a_long_repetition_is_as_good_as_banned_and_still_a_number() -> None:
    params = SamplingParams(0, dry_multiplier=1e6, dry_base=1e6)
    found = changes(params, [5] * 300, [])
    assert np.isfinite(found).all()
    assert found[5] < -1e29
    assert np.count_nonzero(found) == 1


@pytest.mark.parametrize("make", SAMPLERS)
def test_only_allowed_tokens_are_sampled(make: type[Sampler]) -> None:
    sampler = make(NUM_IDS)  # type: ignore[call-arg]
    allowed = (0, 31, 32, 39)
    states = [
        make_state(SamplingParams(seed, allowed_token_ids=allowed), num_token_ids=NUM_IDS)
        for seed in range(200)
    ]
    tokens = sample(sampler, np.zeros((200, NUM_IDS), np.float32), [(state, 3) for state in states])
    assert set(tokens) == set(allowed)
    alone = [
        sample(sampler, np.zeros((1, NUM_IDS), np.float32), [(state, 3)])[0] for state in states[:9]
    ]
    assert alone == tokens[:9]


@pytest.mark.parametrize("make", SAMPLERS)
def test_bans_and_penalties_come_in_the_documented_order(make: type[Sampler]) -> None:
    """Bias and bans, repetition, presence and frequency, n-grams, DRY; then the sampler."""
    names = [build.__module__.rpartition(".")[2] for build in REGISTRY]
    order = ["bias", "allowed_tokens", "min_tokens", "penalties", "no_repeat_ngram", "dry"]
    assert [name for name in names if name in order] == order
    prompt = [1, 2, 3, 1, 2]
    params = SamplingParams(
        0,
        temperature=0.0,
        logit_bias=((3, 8.0), (4, 4.0)),
        repetition_penalty=2.0,
        presence_penalty=0.5,
        dry_multiplier=1.0,
        dry_base=2.0,
        no_repeat_ngram_size=5,
    )
    # (0 + 8) / 2 for the repetition, minus 1 for DRY: the bias came first, DRY last.
    assert changes(params, prompt, [])[3] == 3.0
    row = (make_state(params, prompt=prompt, num_token_ids=NUM_IDS), 5)
    assert sample(make(NUM_IDS), np.zeros((1, NUM_IDS), np.float32), [row]) == [4]  # type: ignore[call-arg]


@settings(deadline=None)
@given(FEW_IDS, FEW_IDS)
def test_a_preempted_sequence_goes_on_as_before(prompt: list[int], output: list[int]) -> None:
    params = SamplingParams(0, no_repeat_ngram_size=3, dry_multiplier=0.8, dry_breaker_ids=(2,))
    state = make_state(params, prompt=prompt, num_token_ids=NUM_IDS)
    for token_id in output:
        state.accept(token_id)
    kept = np.zeros(NUM_IDS, np.float32)
    state.apply(kept)
    assert kept.tobytes() == changes(params, prompt, output).tobytes()


def test_ngrams_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    from transformers import NoRepeatNGramLogitsProcessor

    rng = np.random.default_rng(1)
    for size in (1, 2, 3):
        tokens = rng.integers(0, 4, 30).tolist()
        theirs = NoRepeatNGramLogitsProcessor(size)(torch.tensor([tokens]), torch.zeros(1, NUM_IDS))
        ours = changes(SamplingParams(0, no_repeat_ngram_size=size), tokens[:11], tokens[11:])
        np.testing.assert_array_equal(ours, theirs[0].numpy())
