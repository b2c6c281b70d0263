"""A model folder to named arrays, checked against the architecture and the lock file. No torch.

`expected_tensors` is the list of names and shapes a family has; anything missing, extra or of
another shape is refused before a network is built.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import ModelFolderError
from shoal.model.config import ModelConfig, read_config
from shoal.model.fields import read_json
from shoal.model.safetensors_file import StoredTensor, read_safetensors

MAX_NAMED = 10
USED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a model is made of, beside its weights."""
_READ_BYTES = 1 << 22
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
    """Reads and checks a folder. Raises ModelFolderError."""
    config = read_config(folder)
    files = _weight_files(folder)
    digests = verify_lock(folder)
    on_progress(0.1)
    tensors: dict[str, StoredTensor] = {}
    hashes: list[str] = []
    for index, path in enumerate(files):
        found = read_safetensors(path)
        _refuse_any(folder.name, "tensors stand in two files", [n for n in found if n in tensors])
        tensors.update(found)
        hashes.append(digests.get(path.name) or file_sha256(path))
        on_progress(0.1 + 0.5 * (index + 1) / len(files))
    tensors = _canonical(folder.name, config, tensors)
    _check_tensors(folder.name, config, tensors)
    return Checkpoint(
        config=config,
        tensors=tensors,
        num_parameters=sum(tensor.array.size for tensor in tensors.values()),
        weights_hash=_joined_hash(hashes)[:16],
        dtype=_DTYPES[tensors[_embedding_name(config)].dtype],
    )


def verify_lock(folder: Path) -> dict[str, str]:
    """SHA-256 of the locked files by name, each compared with the file; empty without a lock.
    Raises ModelFolderError for a difference, and for a file in use that is not locked."""
    lock_path = folder / "lock.json"
    if not lock_path.is_file():
        return {}
    try:
        files = read_json(lock_path)["files"]
        locked = {str(name): (str(e["sha256"]), int(e["bytes"])) for name, e in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFolderError(f"{folder.name}/lock.json is not valid") from error
    used = [folder / name for name in USED_FILES if (folder / name).is_file()]
    for path in (*used, *_weight_files(folder)):
        if path.name not in locked:
            raise ModelFolderError(f"{folder.name}/{path.name} is not in lock.json")
    for name, (digest, size) in locked.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise ModelFolderError(f"{folder.name}/{name} is in lock.json but not in the folder")
        if path.stat().st_size != size or file_sha256(path) != digest:
            raise ModelFolderError(
                f"{folder.name}/{name} differs from lock.json: restore the file or remake the lock"
            )
    return {name: digest for name, (digest, _) in locked.items()}


def file_sha256(path: Path) -> str:
    """Hex digits. Raises ModelFolderError for a file that cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_READ_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ModelFolderError(f"{path.name} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _joined_hash(hashes: list[str]) -> str:
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256(b"".join(bytes.fromhex(each) for each in hashes)).hexdigest()


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


def _weight_files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelFolderError(f"{folder.name} has no model.safetensors")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{folder.name}/{index.name} has no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFolderError(f"{folder.name}/{index.name} names a file outside the folder")
    return [folder / name for name in sorted(set(weight_map.values()))]
