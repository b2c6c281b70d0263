"""Small configs of every family of encoders, and their final vectors: ours and those of
`transformers`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.kernels.native import Dtype
from shoal.model.loader import Checkpoint
from shoal.runner.inputs import BestBackend, Float32, HiddenBackend, StepInputs
from tests.fakes.tiny_encoders import VOCAB_SIZE
from tests.model.driving import BLOCK_SIZE, make_backend_of, random_ids

TOKENS = [0, *random_ids(61, vocab=VOCAB_SIZE - 3), 2]
TOKENS = [token_id + 3 for token_id in TOKENS]  # not RoBERTa's padding, which is no token to it

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "bert": {
        "plain": {},
        "with the head of its training": {"architectures": ["BertForMaskedLM"]},
        "with both heads of its training": {"architectures": ["BertForPreTraining"]},
        "one head, eps": {"num_attention_heads": 1, "layer_norm_eps": 0.1},
        "many token types, relu": {"type_vocab_size": 5, "hidden_act": "relu"},
        "odd sizes": {"hidden_size": 45, "num_attention_heads": 3, "intermediate_size": 71},
    },
    "roberta": {
        "plain": {},
        "one token type": {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "with the head of its training": {"architectures": ["RobertaForMaskedLM"]},
    },
    "xlm-roberta": {
        "plain": {},
        "one token type": {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
        "with the head of its training": {"architectures": ["XLMRobertaForMaskedLM"]},
    },
    "modernbert": {
        "plain": {},
        "with the head of its training": {"architectures": ["ModernBertForMaskedLM"]},
        "biases, bases, a window on half of the layers": {
            "norm_bias": True,
            "attention_bias": True,
            "mlp_bias": True,
            "global_attn_every_n_layers": 2,
            "local_attention": 7,
            "local_rope_theta": 100.0,
            "global_rope_theta": 500.0,
        },
        "layer types, bases in rope_parameters": {
            "layer_types": ["sliding_attention", "full_attention"],
            "num_hidden_layers": 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    },
    "distilbert": {
        "plain": {},
        "counted positions": {"sinusoidal_pos_embds": True},
        "relu": {"activation": "relu", "n_heads": 8},
        "with the head of its training": {"architectures": ["DistilBertForMaskedLM"]},
    },
}


def ours(found: Checkpoint, kind: str, token_ids: list[int], dtype: Dtype = "float32") -> Float32:
    """Final vectors [n, hidden_size] of a sequence alone."""
    return together(found, [token_ids], dtype, kind=kind)[0]


def together(
    found: Checkpoint,
    sequences: Sequence[list[int]],
    dtype: Dtype = "float32",
    *,
    kind: str = "native",
    num_threads: int = 1,
) -> list[Float32]:
    """Final vectors [n, hidden_size] of each sequence, computed in one step in another order, over
    scattered blocks."""
    backend = make_backend_of(
        found.spec, found.weights, kind, num_blocks=32, dtype=dtype, num_threads=num_threads
    )
    rng = np.random.default_rng(len(sequences))
    order = rng.permutation(len(sequences)).tolist()
    free = rng.permutation(32).tolist()
    lengths = [len(sequences[index]) for index in order]
    width = max(-(-length // BLOCK_SIZE) for length in lengths)
    tables = np.array([[free.pop() for _ in range(width)] for _ in order], np.int32)
    places = [np.arange(length) for length in lengths]
    slots = [
        table[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
        for table, place in zip(tables, places, strict=True)
    ]
    ends = np.cumsum(lengths)
    inputs = StepInputs(
        token_ids=np.concatenate([sequences[index] for index in order]).astype(np.int32),
        positions=np.concatenate(places).astype(np.int32),
        slots=np.concatenate(slots).astype(np.int32),
        row_starts=np.array([0, *ends], np.int32),
        context_lens=np.array(lengths, np.int32),
        block_tables=tables,
        logit_indices=np.empty(0, np.int32),
        hidden_indices=np.arange(ends[-1], dtype=np.int32),
    )
    if isinstance(backend, BestBackend):
        hidden = backend.forward_best(inputs, 0).hidden
        assert hidden is not None
    else:
        assert isinstance(backend, HiddenBackend)
        hidden = backend.forward_hidden(inputs)[1]
    parts = dict(zip(order, np.split(hidden, ends[:-1]), strict=True))
    return [parts[index] for index in range(len(sequences))]


def theirs(network: Any, token_ids: list[int]) -> Float32:
    import torch

    with torch.inference_mode():
        states: Float32 = network.base_model(torch.tensor([token_ids]))[0][0].numpy()
    return states
