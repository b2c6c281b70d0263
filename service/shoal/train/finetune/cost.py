"""What a run takes, from sizes alone: floating-point operations, and memory within some 20 % of
what runs on a CPU were measured to take."""

import math
from typing import NamedTuple

import torch

from shoal.model.spec import AttentionSpec, DecoderSpec, LayerSpec, Role, expected_weights
from shoal.train.finetune.loss import LOGITS_AT_ONCE
from shoal.train.finetune.rows import LoraSettings

PACK_TOKENS = 384
"""On a CPU larger packs are at most a tenth faster, and their activations take the more memory."""
_PROCESS_BYTES = 330e6
"""Python with torch, the tokenizer and the readers of files."""
_HEAP_FACTOR = 1.6
"""The heap grows to so many times the activations that are kept: others lie between them."""
_OF_ADAMW = 4
"""Weight, gradient and two moments."""


class Cost(NamedTuple):
    memory_bytes: int
    """Resident, at most."""
    flops: int


def estimate(
    spec: DecoderSpec,
    lora: LoraSettings | None,
    pack_tokens: int,
    num_tokens: int,
    *,
    num_targets: int | None = None,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> Cost:
    """`pack_tokens`: of the largest pack; `num_tokens`: computed in all passes together, shared
    beginnings once in a pack; `num_targets`: learned ones of them, None for all.

    memory = process + trained numbers * 16 + frozen numbers * (2 or 4) + two pieces of logits
             + 1.6 * tokens of a pack * numbers kept per token * (2 or 4)
    flops  = tokens * (4 * numbers of the layers' matrices + 2 * those that are trained)
             + targets * (4 * numbers of the head + 2 of them that are trained);
             twice the numbers of the layers more where activations are computed again
    """
    size = dtype.itemsize
    sizes = {role: math.prod(shape) for role, shape in expected_weights(spec).items()}
    total = sum(sizes.values())
    trained = total if lora is None else _of_products(spec, lora)
    frozen = 0 if lora is None else total
    kept = [_kept_per_token(layer, spec.hidden_size) for layer in spec.layers]
    if checkpointing:
        kept = [max(kept), *[spec.hidden_size] * (len(kept) - 1)]
    memory = (
        _PROCESS_BYTES
        + 4 * _OF_ADAMW * trained
        + size * frozen
        + 2 * 4 * max(LOGITS_AT_ONCE, 16 * spec.vocab_size)
        + _HEAP_FACTOR * size * pack_tokens * sum(kept)
    )
    inside = sum(
        count * _share_used(spec, role) for role, count in sizes.items() if role.layer is not None
    )
    of_head = spec.vocab_size * (spec.embedding_size or spec.hidden_size)
    per_token = 4 * inside + 2 * inside * checkpointing
    per_token += 2 * inside if lora is None else 6 * trained
    per_target = 4 * of_head + (2 * of_head if lora is None else 0)
    targets = num_tokens if num_targets is None else num_targets
    return Cost(int(memory), int(num_tokens * per_token + targets * per_target))


def _of_products(spec: DecoderSpec, lora: LoraSettings) -> int:
    """Numbers of A and B; each matrix counted with an A of its own."""
    shapes = expected_weights(spec)
    return sum(
        lora.rank * sum(shape)
        for role, shape in shapes.items()
        if role.layer is not None and role.name.removesuffix(".weight") in lora.targets
    )


def _share_used(spec: DecoderSpec, role: Role) -> float:
    """Of a weight of a layer: by each token, experts are by some."""
    assert role.layer is not None
    experts = spec.layers[role.layer].mlp.experts
    if experts is None or not role.name.startswith("experts."):
        return 1.0
    return experts.num_experts_per_token / experts.num_experts


def _kept_per_token(layer: LayerSpec, hidden: int) -> int:
    """Numbers of a token that a layer keeps for its gradient."""
    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, AttentionSpec):
        kept = 2 * mixer.query_size + 2 * mixer.kv_size
    else:
        kept = 8 * hidden
    norms = (layer.attention_post_norm, layer.mlp_post_norm)
    kept += (2 + sum(norm is not None for norm in norms)) * hidden
    inside = mlp.intermediate_size
    if mlp.experts is not None:
        inside *= mlp.experts.num_experts_per_token
        inside += mlp.experts.shared_intermediate_size or 0
        kept += 2 * mlp.experts.num_experts_per_token * hidden
    return kept + 2 * inside
