"""Initial weights for a new network: word statistics in the embedding, a circuit that copies.

Both recipes use it as their `initialize` hook. Fewer steps are then spent on what counting words
already tells.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer

from shoal.train.corpora import document_texts
from shoal.train.network import Llama
from shoal.train.pieces import Corpus
from shoal.train.tokenizer import twins
from shoal.train.twin_embedding import TwinEmbedding

from .copying import wire_copying
from .embedding import cooccurrence_embedding


def warm_start(network: Llama, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Fill the embedding from co-occurrence in all texts, then wire a circuit that copies.

    Spaces between words are skipped, and a token with a leading space counts as its twin without.
    """
    texts = [*document_texts(corpus.background), *document_texts(corpus.train)]
    skipped = {tokenizer.token_to_id(token) for token in ("\u0120", "\u010a")}  # space and newline
    pairs = twins(tokenizer)
    encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = [
        np.array(
            [pairs.get(token, token) for token in encoding.ids if token not in skipped], np.int32
        )
        for encoding in encodings
    ]
    vectors = cooccurrence_embedding(ids, network.vocab_size, network.shape.hidden_size)
    embedding = network.model.embed_tokens
    with torch.no_grad():
        if isinstance(embedding, TwinEmbedding):
            bare = embedding.spaced == 0
            embedding.rows[embedding.row_of[bare]] = vectors[bare]
        else:
            embedding.weight.copy_(vectors)
    wire_copying(network, seed=2)
