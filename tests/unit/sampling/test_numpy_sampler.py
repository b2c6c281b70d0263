"""The sampler against a slow float64 twin, against `transformers`, and against itself alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.protocol.params import SamplingParams
from shoal.sampling.arrays import Float32
from shoal.sampling.numpy_sampler import NumpySampler
from tests.unit.sampling.building import row, sample
from tests.unit.sampling.twin import kept_probabilities, uniform_of

TRUNCATIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 200},
    {"top_k": 5000},
    {"top_p": 0.0},
    {"top_p": 0.5},
    {"top_p": 0.97},
    {"top_p": 0.999, "temperature": 2.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 1e-6},
    {"typical_p": 0.4},
    {"typical_p": 0.9, "top_k": 50},
    {"top_k": 40, "top_p": 0.9, "temperature": 0.8},
    {"top_k": 300, "top_p": 0.3},
    {"top_k": 600, "top_p": 0.6, "min_p": 0.01},
    {"top_k": 1500, "top_p": 0.5, "temperature": 2.0},
    {"top_k": 300, "top_p": 0.8, "typical_p": 0.9, "min_p": 0.02, "temperature": 1.3},
]


def make_logits(num_rows: int, vocab: int, *, seed: int = 0, spread: float = 2.0) -> Float32:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((num_rows, vocab)) * spread).astype(np.float32)


@pytest.mark.parametrize("wishes", TRUNCATIONS, ids=str)
@pytest.mark.parametrize("spread", [0.02, 2.0, 8.0])
def test_every_drawn_token_is_one_the_twin_keeps_as_often_as_the_twin_says(
    wishes: dict[str, Any], spread: float
) -> None:
    logits = make_logits(1, 700, spread=spread)
    wanted = kept_probabilities(logits[0].astype(np.float64), SamplingParams(seed=0, **wishes))
    num_draws = 1500
    rows = [row(3, position, **wishes) for position in range(num_draws)]
    tokens = sample(NumpySampler(700), np.repeat(logits, num_draws, axis=0), rows)
    found = np.bincount(np.array(tokens, int), minlength=700)
    # A token at the very edge may fall on either side by rounding: its share is then tiny.
    assert wanted[found > 0].min() > 0 or found[wanted == 0].sum() <= 2
    # Pearson's statistic over tokens that are expected at least 5 times, 6 sigma.
    common = wanted * num_draws >= 5
    expected = wanted[common] * num_draws
    statistic = ((found[common] - expected) ** 2 / expected).sum()
    degrees = max(1, int(common.sum()) - 1)
    assert statistic < degrees + 6 * np.sqrt(2 * degrees) + 10


@pytest.mark.parametrize("wishes", TRUNCATIONS[3:], ids=str)
def test_a_truncated_draw_is_the_twins_token_in_order_of_probability(
    wishes: dict[str, Any],
) -> None:
    logits = make_logits(40, 3000, seed=1)
    rows = [row(index, 9, **wishes) for index in range(40)]
    tokens = sample(NumpySampler(3000), logits, rows)
    differing = 0
    for index, token_id in enumerate(tokens):
        values = logits[index].astype(np.float64)
        probs = kept_probabilities(values, rows[index][0].params)
        order = np.lexsort((np.arange(3000), -values))
        place = np.searchsorted(np.cumsum(probs[order]), uniform_of(index, 9), side="right")
        differing += token_id != order[place]
    assert differing <= 1  # a uniform number at the very edge between two tokens


def test_a_plain_draw_is_the_token_at_that_share_of_the_mass_in_order_of_ids() -> None:
    logits = make_logits(200, 1001, seed=2)
    tokens = sample(NumpySampler(1001), logits, [row(index, 0) for index in range(200)])
    differing = 0
    for index, token_id in enumerate(tokens):
        probs = kept_probabilities(logits[index].astype(np.float64), SamplingParams(seed=0))
        differing += token_id != np.searchsorted(
            np.cumsum(probs), uniform_of(index, 0), side="right"
        )
    assert differing <= 2


@pytest.mark.parametrize(
    ("wishes", "warper"),
    [
        ({"top_k": 9}, "TopKLogitsWarper(9)"),
        ({"top_p": 0.7}, "TopPLogitsWarper(0.7)"),
        ({"typical_p": 0.6}, "TypicalLogitsWarper(0.6)"),
        ({"min_p": 0.1}, "MinPLogitsWarper(0.1)"),
    ],
)
def test_what_is_kept_is_what_transformers_keeps(wishes: dict[str, Any], warper: str) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    name, argument = warper[:-1].split("(")
    logits = make_logits(20, 300, seed=3)
    warped = getattr(process, name)(float(argument) if "." in argument else int(argument))(
        None, torch.from_numpy(logits.copy())
    ).numpy()
    for index in range(20):
        rows = [row(7, position, **wishes) for position in range(400)]
        tokens = sample(NumpySampler(300), np.repeat(logits[index : index + 1], 400, axis=0), rows)
        assert set(tokens) <= set(np.flatnonzero(np.isfinite(warped[index])).tolist())
        kept = kept_probabilities(logits[index].astype(np.float64), rows[0][0].params) > 0
        assert (kept == np.isfinite(warped[index])).all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_rows_token_and_logprobs_are_the_same_alone_and_in_any_batch(data: Any) -> None:
    vocab = data.draw(st.sampled_from([3, 64, 130, 1000, 4097, 70_000]), "vocab")
    num_rows = data.draw(st.integers(2, 6 if vocab > 5000 else 33), "rows")
    seed = data.draw(st.integers(0, 1 << 20), "seed")
    spread = data.draw(st.sampled_from([0.01, 1.0, 5.0, 30.0]), "spread")
    logits = make_logits(num_rows, vocab, seed=seed, spread=spread)
    kinds = [*TRUNCATIONS, {"temperature": 0.0}, {"logit_bias": ((1, 3.0), (2, -100.0))}]
    rows = [
        row(seed + index, index, **data.draw(st.sampled_from(kinds))) for index in range(num_rows)
    ]
    sampler = NumpySampler(vocab)
    together = sample(sampler, logits, rows)
    ids = [max(token_id, 0) for token_id in together]
    reports = sampler.logprobs(logits, ids, [min(vocab, 4)] * num_rows)
    for index in range(num_rows):
        one = np.array(logits[index : index + 1])
        assert sample(sampler, one, [rows[index]]) == [together[index]]
        assert sampler.logprobs(one, [ids[index]], [min(vocab, 4)]) == [reports[index]]


def test_columns_beyond_the_tokenizers_ids_are_sampled_as_if_they_were_not_there() -> None:
    logits = make_logits(8, 128, spread=0.01)
    logits[:, 100:] = 50.0
    for wishes in ({"temperature": 0.0}, {}, {"top_k": 60}, {"top_p": 0.9}):
        rows = [row(index, 1, **wishes) for index in range(8)]
        tokens = sample(NumpySampler(100), logits, rows)
        assert tokens == sample(NumpySampler(100), logits[:, :100].copy(), rows)
        assert max(tokens) < 100


def test_columns_beyond_the_tokenizers_ids_are_part_of_the_distribution_but_never_reported() -> (
    None
):
    logits = make_logits(5, 130)
    values = logits.astype(np.float64)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    for index, report in enumerate(NumpySampler(100).logprobs(logits, [7] * 5, [100] * 5)):
        assert report.logprob == pytest.approx(values[index, 7], abs=2e-6)
        assert sorted(report.top_ids) == list(range(100))
        np.testing.assert_allclose(report.top_logprobs, values[index, report.top_ids], atol=2e-6)


def test_of_equal_logits_the_lowest_id_wins_greedily_and_at_every_edge() -> None:
    logits = np.zeros((1, 500), np.float32)
    logits[0, [17, 30, 400]] = 2.0
    sampler = NumpySampler(500)
    assert sample(sampler, logits, [row(temperature=0.0)]) == [17]
    assert sample(sampler, logits, [row(top_k=1)]) == [17]
    assert sample(sampler, logits, [row(top_p=0.0)]) == [17]
    drawn = {sample(sampler, logits, [row(0, position, top_k=2)])[0] for position in range(60)}
    assert drawn == {17, 30}
    drawn = {sample(sampler, logits, [row(0, position, top_k=5)])[0] for position in range(300)}
    assert drawn == {17, 30, 400, 0, 1}
    assert sampler.logprobs(logits, [400], [4])[0].top_ids == [17, 30, 400, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("wishes", [{"temperature": 0.0}, {}, {"top_k": 5}], ids=str)
def test_a_row_with_nan_or_infinity_fails_alone(bad: float, wishes: dict[str, Any]) -> None:
    logits = make_logits(4, 90)
    rows = [row(index, 2, **wishes) for index in range(4)]
    sampler = NumpySampler(90)
    undisturbed = sample(sampler, logits, rows)
    logits[2, 33] = bad
    tokens = sample(sampler, logits, rows)
    assert tokens == [*undisturbed[:2], -1, undisturbed[3]]


def test_a_row_of_minus_infinity_and_a_row_whose_every_token_is_banned_fail_alone() -> None:
    logits = make_logits(4, 3)
    logits[0] = -np.inf
    ban_all = tuple((token_id, -100.0) for token_id in range(3))
    rows = [row(), row(logit_bias=ban_all), row(logit_bias=ban_all, temperature=0.0), row()]
    tokens = sample(NumpySampler(3), logits, rows)
    assert tokens[:3] == [-1, -1, -1]
    assert tokens[3] >= 0


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
@pytest.mark.parametrize("wishes", [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
def test_a_tiny_temperature_gives_the_best_token(
    temperature: float, wishes: dict[str, Any]
) -> None:
    logits = make_logits(20, 400)
    rows = [row(index, 3, temperature=temperature, **wishes) for index in range(20)]
    assert sample(NumpySampler(400), logits, rows) == logits.argmax(axis=1).tolist()


def test_the_callers_logits_stay_as_they_are() -> None:
    logits = make_logits(3, 50)
    before = logits.copy()
    sampler = NumpySampler(50)
    sample(sampler, logits, [row(), row(top_k=3), row(logit_bias=((1, 9.0),), temperature=0.0)])
    sampler.logprobs(logits, [1, 2, 3], [2, 2, 2])
    np.testing.assert_array_equal(logits, before)


def test_logprobs_equal_a_float64_log_softmax_best_first() -> None:
    logits = make_logits(100, 777, spread=5.0)
    reports = NumpySampler(777).logprobs(
        logits, list(range(100)), [index % 6 for index in range(100)]
    )
    values = logits.astype(np.float64)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    for index, report in enumerate(reports):
        assert report.logprob == pytest.approx(values[index, index], abs=2e-6)
        order = np.argsort(-values[index], kind="stable")[: index % 6]
        assert report.top_ids == order.tolist()
        np.testing.assert_allclose(report.top_logprobs, values[index, order], atol=2e-6)


def test_the_chosen_tokens_logprob_is_the_same_number_among_the_best() -> None:
    logits = make_logits(1, 50)
    best = int(logits[0].argmax())
    report = NumpySampler(50).logprobs(logits, [best], [3])[0]
    assert report.top_ids[0] == best
    assert report.top_logprobs[0] == report.logprob


def test_a_row_without_a_finite_best_has_no_logprobs() -> None:
    logits = make_logits(2, 20)
    logits[0, 4] = np.nan
    first, second = NumpySampler(20).logprobs(logits, [1, 1], [2, 2])
    assert (first.logprob, first.top_ids) == (float("-inf"), [])
    assert len(second.top_ids) == 2
