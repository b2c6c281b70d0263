"""Writes the numbers that a GGUF file's blocks stand for as a model folder in float32, so that
other formats can be made of them: `--quantize` leaves blocks of 4 bits as they are."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.files import ModelFiles, StoredTensor
from shoal.checkpoint.open import open_model


def write_dequantized(file: Path, folder: Path) -> None:
    """One tensor in memory at a time. The config comes last: a folder that has one is whole."""
    files = open_model(file)
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder / "model.safetensors", files.tensors(lambda done: None))
    _write_tokenizer(folder, files)
    _write_json(folder / "generation_config.json", files.generation_config)
    _write_json(folder / "config.json", {**files.config, "torch_dtype": "float32"})


def _write_weights(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with path.open("wb") as out:
        out.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors.values():
            out.write(dequantize(tensor).tobytes())


def _write_tokenizer(folder: Path, files: ModelFiles) -> None:
    definition = files.tokenizer.definition()
    text = definition if isinstance(definition, str) else json.dumps(definition)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", files.tokenizer.settings)
    if template := files.chat_templates.get("default"):
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=1) + "\n", encoding="utf-8")
