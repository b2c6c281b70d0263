"""The Kneser-Ney baseline is a probability, agrees with a slow reading of the definition, and gets
better with its order on text that has more to give."""

from collections import Counter

import numpy as np
import pytest

from models.recipes.minnow.ngram import NgramModel


def random_texts(num: int, vocab: int = 7, seed: int = 0) -> list[list[int]]:
    """Texts of a random second-order chain, each ended by 0."""
    rng = np.random.default_rng(seed)
    chain = rng.dirichlet(np.full(vocab - 1, 0.15), size=(vocab, vocab))
    texts = []
    for _ in range(num):
        text = [0, 0]
        for _ in range(int(rng.integers(5, 40))):
            text.append(1 + int(rng.choice(vocab - 1, p=chain[text[-2], text[-1]])))
        texts.append([*text[2:], 0])
    return texts


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_the_probabilities_of_the_vocabulary_add_up_to_one(order: int) -> None:
    model = NgramModel(random_texts(60), 7, order)
    rng = np.random.default_rng(1)
    for length in (0, 1, 2, 3, 6, 9):
        for _ in range(5):
            probs = model.distribution(rng.integers(0, 7, length).tolist())
            assert probs.min() > 0
            assert probs.sum() == pytest.approx(1.0, abs=1e-12)


def test_a_text_costs_what_the_distributions_along_it_say() -> None:
    model = NgramModel(random_texts(60), 7)
    text = random_texts(1, seed=5)[0]
    expected = [model.distribution(text[:index])[token] for index, token in enumerate(text)]
    assert model.probabilities(text) == pytest.approx(expected, rel=1e-12)


def slow_bigram(texts: list[list[int]], vocab: int, before: int, token: int) -> float:
    """The definition for order 2, by dictionaries."""
    pairs = Counter(pair for text in texts for pair in zip([0, *text], text, strict=False))
    kinds = Counter(last for _, last in pairs)

    def discount(counts: Counter, count: int) -> float:  # type: ignore[type-arg]
        n = [sum(1 for c in counts.values() if c == times) for times in range(5)]
        if not all(n[1:]):
            return 0.5 if count else 0.0
        y = n[1] / (n[1] + 2 * n[2])
        times = min(count, 3)
        return times - (times + 1) * y * n[times + 1] / n[times] if count else 0.0

    def below(token: int) -> float:
        total = sum(kinds.values())
        lost = sum(discount(kinds, count) for count in kinds.values())
        own = kinds[token] - discount(kinds, kinds[token])
        return (own + lost / vocab) / total

    followers = {last: count for (first, last), count in pairs.items() if first == before}
    if not followers:
        return below(token)
    lost = sum(discount(pairs, count) for count in followers.values())
    own = followers.get(token, 0) - discount(pairs, followers.get(token, 0))
    return (own + lost * below(token)) / sum(followers.values())


def test_a_bigram_model_equals_a_slow_reading_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    texts = [[*(1 + rng.zipf(1.4, 12) % 39).tolist(), 0] for _ in range(60)]
    model = NgramModel(texts, 40, order=2)
    for before in range(1, 40):
        probs = model.distribution([before])
        for token in range(0, 40, 3):
            assert probs[token] == pytest.approx(slow_bigram(texts, 40, before, token), rel=1e-9)


def test_a_longer_memory_helps_on_text_that_has_one_and_not_on_noise() -> None:
    texts, unseen = random_texts(400), random_texts(440)[400:]
    num_bytes = sum(len(text) for text in unseen)
    costs = [NgramModel(texts, 7, order).bits_per_byte(unseen, num_bytes) for order in (1, 2, 3)]
    assert costs[0] > costs[1] + 0.05 > costs[2] + 0.1
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 7, (200, 20)).tolist()
    cost = NgramModel(noise[:150], 7, 5).bits_per_byte(noise[150:], 50 * 20)
    assert cost == pytest.approx(np.log2(6), rel=0.08)
