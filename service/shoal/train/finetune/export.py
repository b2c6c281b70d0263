"""Writes what fine-tuning made: a LoRA adapter as `peft` keeps it, or a whole model in Hugging
Face's layout. Both are read by those libraries and served by Shoal.

Into an empty folder; `folder.py` puts it in its place.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.checkpoint.adapter import CONFIG as ADAPTER_CONFIG
from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.files import BLOCKS
from shoal.checkpoint.hf import CONFIG, HuggingFaceFolder
from shoal.checkpoint.safetensors_write import MAX_FILE_BYTES, Layout, write_safetensors
from shoal.model.adapter import linear_modules
from shoal.model.loader import Checkpoint
from shoal.model.spec import Role, expected_weights
from shoal.model.store import joined, stored_tensors
from shoal.model.weights import named_tensors, num_groups, stored_format
from shoal.train.config import RecipeError
from shoal.train.finetune.companions import copy_companions, make_companions, write_json
from shoal.train.finetune.rows import LoraSettings

LowRank = Mapping[tuple[int, str], tuple[Tensor, Tensor]]
"""(layer, role) -> A [rank, in] and B [out, rank], float32."""
Float32 = NDArray[np.float32]

_DTYPES = {
    "float32": (torch.float32, "F32"),
    "float16": (torch.float16, "F16"),
    "bfloat16": (torch.bfloat16, "BF16"),
}


def write_model(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Iterable[tuple[Role, Tensor]],
    dtype: torch.dtype | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> list[str]:
    """Write a whole model. `weights`: every role of the base once, in any order. `dtype`: float32,
    float16 or bfloat16; None for the base's own, bfloat16 of a quantized one. The config and what
    else belongs to the model are the base's.

    Returns names of files beside the base that are left out, for Shoal does not know that they
    belong to the model. Raises OSError, ModelFolderError for a base that cannot be read,
    RecipeError for weights that are not finite."""
    files, spec = checkpoint.files, checkpoint.spec
    name = _dtype_name(checkpoint, dtype)
    torch_dtype, stored = _DTYPES[name]
    of_base, expected = named_tensors(
        spec, checkpoint.architecture, files.tensors(lambda progress: None), files.name
    )
    unused_rows = {
        key: _bits(torch.from_numpy(dequantize(of_base[key])[: each.source.first_row]), torch_dtype)
        for key, each in expected.items()
        if each.source.first_row
    }
    layouts = {key: Layout(stored, each.shape) for key, each in expected.items()}
    arrays = ((role, _bits(_finite(role, weight), torch_dtype)) for role, weight in weights)
    tensors = stored_tensors(spec, expected, arrays, unused_rows)
    write_safetensors(folder, "model", layouts, tensors, max_file_bytes)
    left_out: list[str] = []
    if isinstance(files, HuggingFaceFolder):
        config = dict(files.config)
        left_out = copy_companions(files, folder)
    else:
        config = make_companions(files, folder)
    config["dtype" if "dtype" in config else "torch_dtype"] = name
    write_json(folder / CONFIG, config)
    return left_out


def write_adapter(
    folder: Path, checkpoint: Checkpoint, base: Path, lora: LoraSettings, low_rank: LowRank
) -> None:
    """Write an adapter. `base`: the model's path as the user gave it. Where a tensor of the base
    holds several adapted matrices (fused q, k and v) that have an A each, its A is all of these,
    one below the other, and its rank so many times as high; it computes the same. Raises OSError,
    ValueError for matrices that the base does not have, RecipeError for some that are not
    finite."""
    spec, architecture = checkpoint.spec, checkpoint.architecture
    sizes = {role: shape[0] for role, shape in expected_weights(spec).items()}
    left = dict(low_rank)
    arrays: dict[str, Float32] = {}
    ranks: dict[str, int] = {}
    others: list[str] = []
    transposed: set[bool] = set()
    for module, source, layer in linear_modules(architecture, spec):
        roles = [Role(role, layer) for role in source.roles]
        pairs = [_pair(left, role) for role in roles]
        if not any(pairs):
            others.append(module)
            continue
        groups = num_groups(source, layer, spec)
        a, b = _module_matrices(pairs, [sizes[role] for role in roles], groups)
        arrays[f"base_model.model.{module}.lora_A.weight"] = a
        arrays[f"base_model.model.{module}.lora_B.weight"] = b
        ranks[module] = len(a)
        transposed.add(source.transposed)
    if left:
        raise ValueError(f"the base has no linear layers for {', '.join(map(str, left))}")
    if not arrays:
        raise ValueError("no matrix is adapted")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": _short_names(list(ranks), others),
        "rank_pattern": _of_other_rank(ranks, lora.rank, 1),
        "alpha_pattern": _of_other_rank(ranks, lora.rank, lora.alpha / lora.rank),
        "fan_in_fan_out": transposed == {True},
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(folder / ADAPTER_CONFIG, config)
    layouts = {name: Layout("F32", array.shape) for name, array in arrays.items()}
    write_safetensors(folder, "adapter_model", layouts, arrays.items())


# --- a whole model --------------------------------------------------------------------------------


def _dtype_name(checkpoint: Checkpoint, dtype: torch.dtype | None) -> str:
    if dtype is not None:
        return next(name for name, (known, _) in _DTYPES.items() if known == dtype)
    if any(weight.dtype in BLOCKS for weight in checkpoint.weights.values()):
        return "bfloat16"
    return stored_format(checkpoint.weights)


def _finite(role: Role, weight: Tensor) -> Tensor:
    if not bool(weight.isfinite().all()):
        raise RecipeError(
            f"{role} holds NaN or infinity after training, so nothing is written: train again with "
            "a lower learning rate"
        )
    return weight


def _bits(weight: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """Rounded to the dtype; of bfloat16 the bits as uint16."""
    rounded = weight.detach().to("cpu", dtype)
    if dtype == torch.bfloat16:
        rounded = rounded.view(torch.uint16)
    array: NDArray[Any] = rounded.numpy()
    return array


# --- an adapter -----------------------------------------------------------------------------------


def _pair(left: dict[tuple[int, str], tuple[Tensor, Tensor]], role: Role) -> Any:
    """A and B of a weight, taken out of `left`; None where it is not adapted."""
    if role.layer is None:
        return None
    pair = left.pop((role.layer, role.name.removesuffix(".weight")), None)
    if pair is None:
        return None
    return tuple(_bits(_finite(role, matrix), torch.float32) for matrix in pair)


def _module_matrices(
    pairs: Sequence[tuple[Float32, Float32] | None], sizes: Sequence[int], groups: int
) -> tuple[Float32, Float32]:
    """A [rank of all, in] and B [out of all, rank of all] of a tensor that holds matrices with so
    many outputs. Matrices with the same A share it."""
    different: list[Float32] = []
    places: list[int] = []
    for pair in pairs:
        if pair is None:
            places.append(0)
            continue
        same = [i for i, a in enumerate(different) if np.array_equal(a, pair[0])]
        places.append(same[0] if same else len(different))
        if not same:
            different.append(pair[0])
    starts = np.cumsum([0, *(len(a) for a in different)])
    parts = []
    for pair, place, size in zip(pairs, places, sizes, strict=True):
        part = np.zeros((size, starts[-1]), np.float32)
        if pair is not None:
            part[:, starts[place] : starts[place + 1]] = pair[1]
        parts.append(part)
    return np.concatenate(different), joined(parts, groups)


def _of_other_rank(ranks: Mapping[str, int], rank: int, factor: float) -> dict[str, Any]:
    """End of a module's name, as a regular expression -> its rank times `factor`, where that is
    another than `rank`."""
    found: dict[str, Any] = {}
    for own in sorted(set(ranks.values()) - {rank}):
        modules = [module for module, each in ranks.items() if each == own]
        others = [module for module, each in ranks.items() if each != own]
        for name in _short_names(modules, others):
            found[name.replace(".", r"\.")] = own * factor
    return found


def _short_names(modules: Sequence[str], others: Sequence[str]) -> list[str]:
    """The shortest ends of names, at whole words, that all of `modules` and none of `others` have;
    whole names where an end would be only of some layers."""
    found: set[str] = set()
    for module in modules:
        words = module.split(".")
        for start in range(len(words) - 1, -1, -1):
            if words[start].isdigit():
                found.add(module)
                break
            name = ".".join(words[start:])
            if not any(_ends_with(other, name) for other in others):
                found.add(name)
                break
        else:
            found.add(module)
    return sorted(found)


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
