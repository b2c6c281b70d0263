"""A model folder to named arrays, checked against the architecture and the lock file. No torch.

`expected_tensors` is the list of names and shapes a family has; anything missing, extra or of
another shape is refused before a network is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.model.config import ModelConfig, parse_config

MAX_NAMED = 10
_NUMBERS_AT_ONCE = 1 << 20
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked model: shape and weights by their Hugging Face names."""

    config: ModelConfig
    tensors: dict[str, StoredTensor]
    num_parameters: int
    weights_hash: str
    """First 16 hex digits of the SHA-256 over the weight file; of several files, over their
    SHA-256 digests in order of names."""
    dtype: str
    """Of the embedding, as stored: float32, float16 or bfloat16."""


def load_checkpoint(folder: Path, on_progress: Callable[[float], None]) -> Checkpoint:
    """Reads and checks a model. Raises ModelFolderError."""
    files = open_model(folder)
    config = parse_config(dict(files.config), files.name)
    stored = files.tensors(lambda part: on_progress(0.6 * part))
    tensors = _canonical(files.name, config, dict(stored))
    _check_tensors(files.name, config, tensors)
    return Checkpoint(
        config=config,
        tensors=tensors,
        num_parameters=sum(tensor.array.size for tensor in tensors.values()),
        weights_hash=files.weights_hash,
        dtype=_DTYPES[tensors[_embedding_name(config)].dtype],
    )


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the architecture."""
    return _llama_tensors(config) if config.architecture == "llama" else _gpt2_tensors(config)


def _llama_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, mlp = config.hidden_size, config.mlp_size
    query, kv = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        at = f"model.layers.{layer}"
        linears = {
            f"{at}.self_attn.q_proj": (query, hidden, config.qkv_bias),
            f"{at}.self_attn.k_proj": (kv, hidden, config.qkv_bias),
            f"{at}.self_attn.v_proj": (kv, hidden, config.qkv_bias),
            f"{at}.self_attn.o_proj": (hidden, query, config.output_bias),
            f"{at}.mlp.gate_proj": (mlp, hidden, config.mlp_bias),
            f"{at}.mlp.up_proj": (mlp, hidden, config.mlp_bias),
            f"{at}.mlp.down_proj": (hidden, mlp, config.mlp_bias),
        }
        for name, (rows, columns, bias) in linears.items():
            shapes[f"{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{name}.bias"] = (rows,)
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def _gpt2_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    hidden, mlp = config.hidden_size, config.mlp_size
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (config.vocab_size, hidden),
        "transformer.wpe.weight": (config.max_positions, hidden),
    }
    for layer in range(config.num_layers):
        at = f"transformer.h.{layer}"
        linears = {  # stored [in, out]
            f"{at}.attn.c_attn": (hidden, 3 * hidden),
            f"{at}.attn.c_proj": (hidden, hidden),
            f"{at}.mlp.c_fc": (hidden, mlp),
            f"{at}.mlp.c_proj": (mlp, hidden),
        }
        for name, (rows, columns) in linears.items():
            shapes[f"{name}.weight"] = (rows, columns)
            shapes[f"{name}.bias"] = (columns,)
        for norm in ("ln_1", "ln_2"):
            shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (hidden,)
    shapes["transformer.ln_f.weight"] = shapes["transformer.ln_f.bias"] = (hidden,)
    if not config.tied_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes


def _embedding_name(config: ModelConfig) -> str:
    is_gpt2 = config.architecture == "gpt2"
    return "transformer.wte.weight" if is_gpt2 else "model.embed_tokens.weight"


def _canonical(
    folder: str, config: ModelConfig, tensors: dict[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Names as the whole model has them, without buffers that carry no weights."""
    named = dict(tensors)
    if config.architecture == "gpt2" and "wte.weight" in named:
        named = {f"transformer.{name}": tensor for name, tensor in named.items()}
    constants = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    named = {name: tensor for name, tensor in named.items() if not name.endswith(constants)}
    if config.tied_embeddings and (head := named.pop("lm_head.weight", None)) is not None:
        embedding = named.get(_embedding_name(config))
        if embedding is not None and not np.array_equal(head.array, embedding.array):
            raise ModelFolderError(
                f"{folder}: config.json says tie_word_embeddings, and lm_head.weight differs "
                "from the embedding"
            )
    return named


def _check_tensors(folder: str, config: ModelConfig, tensors: dict[str, StoredTensor]) -> None:
    wanted = expected_tensors(config)
    _refuse_any(folder, "tensors are missing", [name for name in wanted if name not in tensors])
    _refuse_any(folder, "tensors are unknown", [name for name in tensors if name not in wanted])
    _refuse_any(
        folder,
        "tensors have another shape than config.json says",
        [
            f"{name} {list(tensor.array.shape)} instead of {list(wanted[name])}"
            for name, tensor in tensors.items()
            if tensor.array.shape != wanted[name]
        ],
    )
    _refuse_any(
        folder,
        "tensors are not F32, F16 or BF16",
        [f"{n} {t.dtype}" for n, t in tensors.items() if t.dtype not in _DTYPES],
    )
    _refuse_any(
        folder,
        "tensors hold NaN or infinity",
        [name for name, tensor in tensors.items() if not _is_finite(tensor)],
    )


def _is_finite(tensor: StoredTensor) -> bool:
    flat: Any = tensor.array.reshape(-1)
    for start in range(0, flat.size, _NUMBERS_AT_ONCE):
        piece = flat[start : start + _NUMBERS_AT_ONCE]
        if tensor.dtype == "BF16":  # all exponent bits set = not a number
            if ((piece & 0x7F80) == 0x7F80).any():
                return False
        elif not np.isfinite(piece).all():
            return False
    return True


def _refuse_any(folder: str, what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        raise ModelFolderError(f"{folder}: {what}: {', '.join(names[:MAX_NAMED])}{more}")
