"""A sequence's embedding of the final vectors of its tokens."""

import numpy as np

from shoal.model.spec import DecoderSpec, EmbeddingSpec
from shoal.runner.inputs import Float32

_LEAST_LENGTH = np.float32(1e-12)
"""Vectors are divided by no less, as in PyTorch's `normalize`."""


def pooled(spec: EmbeddingSpec, vectors: Float32) -> Float32:
    """[hidden_size] of the vectors [n, hidden_size] of `pooled_tokens`. Sums are float32 and in the
    order of the tokens, so a sequence's embedding is the same whatever was computed beside it."""
    vector: Float32 = vectors[0]
    if spec.pooling == "mean":
        vector = np.add.reduce(np.ascontiguousarray(vectors), axis=0) / np.float32(len(vectors))
    if spec.normalized:
        length = np.sqrt(np.add.reduce(vector * vector))
        vector = vector / np.maximum(length, _LEAST_LENGTH)
    return vector


def pooled_tokens(spec: EmbeddingSpec, num_tokens: int) -> range:
    """Positions of the tokens of a prompt whose final vectors its embedding is made of."""
    first = num_tokens - 1 if spec.pooling == "last" else 0
    return range(first, num_tokens if spec.pooling != "first" else 1)


def needs_whole_prompt(spec: DecoderSpec) -> bool:
    """Must all tokens of a prompt be computed in one step? Where they look at each other in both
    directions; and where the vectors of more than the last are pooled, which no cache keeps."""
    pools_others = spec.embedding is not None and spec.embedding.pooling != "last"
    return not spec.is_causal or pools_others
