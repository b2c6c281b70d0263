"""A head start for copying: an induction circuit wired into the first two layers.

An induction head (Olsson et al. 2022) finds where the newest token stood before and predicts what
followed it. Small networks need millions of tokens to grow one; here training starts with one and
is free to change it. For initial weights set by hand compare mimetic initialization (Trockman and
Kolter 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.train.network import Attention, Layer, Llama
from shoal.train.twin_embedding import TwinEmbedding

_NORM = 1.6  # of every embedding row: large enough that the first steps do not change its direction
_OWN_LOGIT = 15.0  # of a token whose embedding is the residual: a copy can be nearly certain
_CONSTANT = 0.45  # of the norm, along a direction that all tokens share
_PREVIOUS_SHARPNESS = 6.0  # of layer 0's attention to the previous token
_MATCH_SHARPNESS = 2.0  # of layer 1's attention to what followed the newest token
_SPACE_NORM = 0.5  # of the vector that tells ` word` from `word`, relative to _NORM
_PREVIOUS_STRENGTH = 0.5  # of the previous token's identity that layer 0 writes
_COPY_STRENGTH = 6.0  # of the copied token that layer 1 adds


def wire_copying(network: Llama, seed: int) -> None:
    """Overwrite KV group 0 of layers 0 and 1 and rescale the embedding.

    Layer 0 attends to the previous token and writes its identity beside each token. Layer 1
    compares that with the newest token, attends to where it matches and adds the token found
    there, which the tied output layer reads.
    """
    shape = network.shape
    hidden_size, head_dim = shape.hidden_size, shape.head_dim
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(hidden_size, hidden_size, generator=generator)
    basis = torch.linalg.qr(random).Q.T  # orthonormal rows
    constant, current = basis[0], basis[1 : head_dim + 1]
    previous = basis[head_dim + 1 : 2 * head_dim + 1]
    tokens = network.model.embed_tokens
    embedding = tokens.rows if isinstance(tokens, TwinEmbedding) else tokens.weight
    with torch.no_grad():
        if isinstance(tokens, TwinEmbedding):  # outside of `current`: twins match each other
            tokens.space.copy_(basis[-1] * (_NORM * _SPACE_NORM))
        embedding.sub_(embedding.mean(dim=0))  # so that different tokens are nearly orthogonal
        for direction in (constant, *previous):  # kept free for what is written there
            embedding.sub_(torch.outer(embedding @ direction, direction))
        embedding.mul_(_NORM / embedding.norm(dim=1, keepdim=True).clamp_min(1e-6))
        embedding.add_(constant * _NORM * _CONSTANT)
        # root mean square of an embedding row: the RMS norm divides by it
        rms = _NORM * (1 + _CONSTANT**2) ** 0.5 / hidden_size**0.5
        network.model.norm.weight.fill_(_OWN_LOGIT / (_NORM * hidden_size**0.5))
        layers = [layer for layer in network.model.layers if isinstance(layer, Layer)]
        first, second = layers[0].self_attn, layers[1].self_attn
        _attend_to_previous(first, constant / (_NORM * _CONSTANT / rms), shape.rope_theta)
        _write_value(first, current, previous * (_PREVIOUS_STRENGTH * rms))
        _attend_to_match(second, current, previous / _PREVIOUS_STRENGTH)
        _write_value(second, current, current * (_COPY_STRENGTH * rms))


def _attend_to_previous(attention: Attention, reads_one: Tensor, rope_theta: float) -> None:
    """Every key is the same vector; the query is that vector rotated back by one position.

    reads_one [hidden_size]: its product with every normed token is 1.
    """
    head_dim = attention.head_dim
    half = head_dim // 2
    angles = rope_theta ** (-torch.arange(half) / half)
    query, key = torch.zeros(head_dim), torch.zeros(head_dim)
    fast = half // 2  # the slow pairs hardly tell neighbours apart
    key[:fast] = _PREVIOUS_SHARPNESS
    query[:fast] = _PREVIOUS_SHARPNESS * angles[:fast].cos()
    query[half : half + fast] = -_PREVIOUS_SHARPNESS * angles[:fast].sin()
    attention.q_proj.weight[:head_dim] = torch.outer(query, reads_one)
    attention.k_proj.weight[:head_dim] = torch.outer(key, reads_one)


def _attend_to_match(attention: Attention, newest: Tensor, before: Tensor) -> None:
    """The query reads the newest token, the keys the token before each; both [head_dim, hidden].

    Compared in the slow rotary pairs, which hardly turn within a request.
    """
    head_dim = attention.head_dim
    half = head_dim // 2
    slow = [*range(half // 2, half), *range(half + half // 2, head_dim)]
    query = torch.zeros(head_dim, newest.shape[1])
    key = torch.zeros(head_dim, newest.shape[1])
    query[slow] = newest[: len(slow)] * _MATCH_SHARPNESS
    key[slow] = before[: len(slow)] * _MATCH_SHARPNESS
    attention.q_proj.weight[:head_dim] = query
    attention.k_proj.weight[:head_dim] = key


def _write_value(attention: Attention, reads: Tensor, writes: Tensor) -> None:
    """What is attended to along `reads` is added along `writes`; both [head_dim, hidden]."""
    head_dim = attention.head_dim
    attention.v_proj.weight[:head_dim] = reads
    attention.o_proj.weight[:, :head_dim] = writes.T
