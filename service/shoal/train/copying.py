"""A head start for copying: an induction circuit wired into the first two layers.

An induction head (Olsson et al. 2022) finds where the newest token stood before and repeats what
followed it. Small networks need millions of tokens to grow one; here it is there at the start, and
training does with it what it likes. Weights set by hand as a beginning: compare mimetic
initialization (Trockman and Kolter 2023).
"""

from __future__ import annotations

import torch
from torch import Tensor

from shoal.train.network import Attention, Layer, Llama, TwinEmbedding

_LENGTH = 1.6  # of every embedding: long enough that the first steps do not turn it round
_LOGIT = 15.0  # of a token's own embedding, so that a copied token can be near certain
_CONSTANT = 0.45  # share of an embedding's length that is the same in all tokens
_SHARPNESS = 6.0  # of attention to the previous token
_MATCH = 2.0  # of attention to what followed the newest token
_BLANK = 0.5  # length of what tells a word after a blank from its twin, in embeddings
_BESIDE = 0.5  # strength of what is written beside a token, in lengths of an embedding
_COPY = 6.0  # strength of what is added to be written next


def wire_copying(network: Llama, seed: int) -> None:
    """Overwrite KV group 0 of layers 0 and 1; adds one constant direction to the embedding.

    Layer 0 attends to the previous token and writes who it is beside each token. Layer 1 compares
    that with the newest token, and adds the token found there, which the tied output layer reads.
    """
    shape = network.shape
    size, head = shape.hidden_size, shape.head_dim
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q.T  # orthonormal rows
    constant, reads, beside = basis[0], basis[1 : head + 1], basis[head + 1 : 2 * head + 1]
    tokens = network.model.embed_tokens
    embedding = tokens.rows if isinstance(tokens, TwinEmbedding) else tokens.weight
    with torch.no_grad():
        if isinstance(tokens, TwinEmbedding):  # not among what is read: twins match each other
            tokens.blank.copy_(basis[-1] * (_LENGTH * _BLANK))
        embedding.sub_(embedding.mean(dim=0))  # so that different tokens are at right angles
        for direction in (constant, *beside):  # kept free for what is written there
            embedding.sub_(torch.outer(embedding @ direction, direction))
        embedding.mul_(_LENGTH / embedding.norm(dim=1, keepdim=True).clamp_min(1e-6))
        embedding.add_(constant * _LENGTH * _CONSTANT)
        unit = _LENGTH * (1 + _CONSTANT**2) ** 0.5 / size**0.5  # a norm divides by this
        network.model.norm.weight.fill_(_LOGIT / (_LENGTH * size**0.5))
        layers = [layer for layer in network.model.layers if isinstance(layer, Layer)]
        first, second = layers[0].self_attn, layers[1].self_attn
        _attend_previous(first, constant / (_LENGTH * _CONSTANT / unit), shape.rope_theta)
        _value(first, reads, beside * (_BESIDE * unit))
        _attend_match(second, reads, beside / _BESIDE, head)
        _value(second, reads, reads * (_COPY * unit))


def _attend_previous(attention: Attention, reads_one: Tensor, rope_theta: float) -> None:
    # all keys are the same vector, the query is it turned back by one position
    head = attention.head_dim
    half = head // 2
    angles = rope_theta ** (-torch.arange(half) / half)
    query, key = torch.zeros(head), torch.zeros(head)
    fast = half // 2  # slow pairs cannot tell neighbours apart
    key[:fast] = _SHARPNESS
    query[:fast] = _SHARPNESS * angles[:fast].cos()
    query[half : half + fast] = -_SHARPNESS * angles[:fast].sin()
    attention.q_proj.weight[:head] = torch.outer(query, reads_one)
    attention.k_proj.weight[:head] = torch.outer(key, reads_one)


def _attend_match(attention: Attention, newest: Tensor, before: Tensor, head: int) -> None:
    # content is compared in the slow pairs: rotation hardly changes them within a request
    half = head // 2
    slow = [*range(half // 2, half), *range(half + half // 2, head)]
    query, key = torch.zeros(head, newest.shape[1]), torch.zeros(head, newest.shape[1])
    query[slow] = newest[: len(slow)] * _MATCH
    key[slow] = before[: len(slow)] * _MATCH
    attention.q_proj.weight[:head] = query
    attention.k_proj.weight[:head] = key


def _value(attention: Attention, reads: Tensor, writes: Tensor) -> None:
    head = attention.head_dim
    attention.v_proj.weight[:head] = reads
    attention.o_proj.weight[:, :head] = writes.T
