"""Initial weights: words used alike have similar vectors, and the wired circuit copies."""

import numpy as np
import torch

from models.recipes.common.copying import wire_copying
from models.recipes.common.embedding import cooccurrence_embedding
from shoal.train.config import ModelShape
from shoal.train.network import Llama


def test_words_used_alike_start_with_similar_vectors() -> None:
    texts = ["the cat sat here", "the dog sat here", "one red car", "one blue car"] * 5
    words = sorted({word for text in texts for word in text.split()})
    ids = [np.array([words.index(word) for word in text.split()], dtype=np.int32) for text in texts]
    vectors = cooccurrence_embedding(ids, len(words), 8)

    def similarity(one: str, other: str) -> float:
        pair = vectors[words.index(one)], vectors[words.index(other)]
        return float(torch.cosine_similarity(*pair, dim=0))

    assert similarity("cat", "dog") > 0.9
    assert similarity("cat", "dog") > similarity("cat", "car") + 0.3


def test_a_wired_network_repeats_what_followed_the_newest_token() -> None:
    network = Llama(ModelShape(num_layers=2), 500)
    network.initialize(1)
    wire_copying(network, seed=2)
    network.eval()
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():
        logits = network(torch.cat((ids, ids))[None])[0]
    guesses = logits[40:79].argmax(dim=-1)  # in the second reading everything stood before
    assert (guesses == ids[1:]).float().mean() > 0.9


def test_a_wired_network_knows_a_word_after_a_space_as_the_same_word() -> None:
    twins_of = {spaced: spaced - 250 for spaced in range(250, 500)}
    network = Llama(ModelShape(num_layers=2), 500, twins=twins_of)
    network.initialize(1)
    wire_copying(network, seed=2)
    network.eval()
    bare = torch.randperm(250, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():  # with leading spaces, then repeated without
        logits = network(torch.cat((bare + 250, bare))[None])[0, :, :250]
    guesses = logits[40:79].argmax(dim=-1)
    assert (guesses == bare[1:]).float().mean() > 0.9


def test_a_network_that_is_not_wired_does_not_copy() -> None:
    network = Llama(ModelShape(num_layers=2), 500)
    network.initialize(1)
    network.eval()
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():
        logits = network(torch.cat((ids, ids))[None])[0]
    assert (logits[40:79].argmax(dim=-1) == ids[1:]).float().mean() < 0.1
