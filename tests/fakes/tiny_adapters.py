"""Random adapters of tiny models, in the folder layout that peft writes; and bases merged with them
by hand, as an independent answer to what they must compute.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.safetensors import read_safetensors
from tests.fakes.tiny_models import save_safetensors

Matrices = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Module -> (A [rank, in], B [out, rank])."""

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path,
    base: Path,
    *,
    targets: Sequence[str] = ALL_TARGETS,
    rank: int = 4,
    seed: int = 0,
    size: float = 0.7,
    tensors: Mapping[str, NDArray[Any] | None] | None = None,
    **config: Any,
) -> Path:
    """An adapter of the model in `base`, whose deltas are about `size` of its weights. A `tensors`
    entry of None is left out. A change of the config to ... takes the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(targets),
        "bias": "none",
        **config,
    }
    settings = {key: value for key, value in settings.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    arrays: dict[str, NDArray[Any] | None] = {}
    for module, (a, b) in random_matrices(base, targets, rank, seed, size).items():
        arrays[f"base_model.model.{module}.lora_A.weight"] = a
        arrays[f"base_model.model.{module}.lora_B.weight"] = b
    arrays |= tensors or {}
    kept = {name: array for name, array in arrays.items() if array is not None}
    save_safetensors(folder / "adapter_model.safetensors", kept)
    return folder


def random_matrices(
    base: Path, targets: Sequence[str], rank: int, seed: int, size: float
) -> Matrices:
    rng = np.random.default_rng(seed + 1000)
    found: Matrices = {}
    for name, tensor in read_safetensors(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if len(tensor.shape) != 2 or not module.endswith(tuple(targets)):
            continue
        outputs, inputs = tensor.shape[:: -1 if is_transposed(name, base) else 1]
        a = rng.standard_normal((rank, inputs)).astype(np.float32) * np.float32(inputs**-0.5)
        b = rng.standard_normal((outputs, rank)).astype(np.float32) * np.float32(size * rank**-0.5)
        found[module] = a, b
    return found


def write_merged(folder: Path, base: Path, adapter: Path) -> Path:
    """The base's folder with W + alpha / r * B A in place of W; float32, one rank and alpha."""
    folder.mkdir(parents=True)
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    arrays = {
        name: np.array(tensor.array)
        for name, tensor in read_safetensors(base / "model.safetensors").items()
    }
    deltas = read_safetensors(adapter / "adapter_model.safetensors")
    for key, a in deltas.items():
        if found := re.fullmatch(r"base_model\.model\.(.+)\.lora_A\.weight", key):
            name = found[1] + ".weight"
            b = deltas[key.replace("lora_A", "lora_B")].array.astype(np.float64)
            delta = scale * (b @ a.array.astype(np.float64))
            merged = arrays[name] + (delta.T if is_transposed(name, base) else delta)
            arrays[name] = merged.astype(np.float32)
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def is_transposed(name: str, base: Path) -> bool:
    """GPT-2 stores its matrices [in, out]. GPT-Neo, which names some of them alike, does not."""
    if json.loads((base / "config.json").read_text())["model_type"] != "gpt2":
        return False
    return name.startswith("transformer.h.") and (".attn.c_" in name or ".mlp.c_" in name)
