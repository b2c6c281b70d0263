"""Weights against what the config says: anything missing, extra or misshapen is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shoal.model.loader import Checkpoint, load_checkpoint

from shoal.errors import ModelFolderError
from tests.fakes.tiny_models import (
    TINY_GPT2,
    TINY_LLAMA,
    framed,
    random_weights,
    save_safetensors,
    write_tiny_gpt2,
    write_tiny_llama,
)


def load(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, lambda progress: None)


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def rewrite(folder: Path, change: Any, config: dict[str, Any] = TINY_LLAMA) -> Path:
    """Saves the folder's weights again after `change` did something to them."""
    arrays = random_weights(config)
    change(arrays)
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ModelFolderError, match=f"missing: {name}$"):
        load(rewrite(folder, lambda arrays: arrays.pop(name)))
    with pytest.raises(ModelFolderError, match=r"unknown: odd\.one$"):
        load(rewrite(folder, lambda arrays: arrays.update({"odd.one": np.ones(1, np.float32)})))
    with pytest.raises(ModelFolderError, match=rf"{name} \[48, 72\] instead of \[72, 48\]"):
        load(rewrite(folder, lambda arrays: arrays.update({name: arrays[name].T.copy()})))


def test_of_many_missing_tensors_ten_are_named_and_the_others_counted(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ModelFolderError, match="and 17 more") as caught:
        load(folder)
    assert caught.value.message.count("model.layers") == 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_nan_and_infinity_in_any_format_are_refused_by_name(
    tmp_path: Path, stored: str, bad: float
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype=stored)
    path = folder / "model.safetensors"
    header, data = parts(path.read_bytes())
    entry = header["model.norm.weight"]
    bits = {
        "float32": np.float32(bad).tobytes(),
        "float16": np.float16(bad).tobytes(),
        "bfloat16": np.float32(bad).tobytes()[2:],
    }[stored]
    place = entry["data_offsets"][1] - len(bits)
    path.write_bytes(framed(header, data[:place] + bits + data[place + len(bits) :]))
    with pytest.raises(ModelFolderError, match=r"NaN or infinity: model\.norm\.weight$"):
        load(folder)


def test_a_tied_head_may_be_stored_too_but_must_be_the_embedding(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", tie_word_embeddings=True)
    config = TINY_LLAMA | {"tie_word_embeddings": True}

    def copy(arrays: Any) -> None:
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()

    def differ(arrays: Any) -> None:
        copy(arrays)
        arrays["lm_head.weight"][0, 0] += 1

    assert "lm_head.weight" not in load(rewrite(folder, copy, config)).tensors
    with pytest.raises(ModelFolderError, match=r"lm_head\.weight differs"):
        load(rewrite(folder, differ, config))


def test_old_gpt2_names_and_mask_buffers_are_understood(tmp_path: Path) -> None:
    folder = write_tiny_gpt2(tmp_path / "tiny")
    wanted = load(folder)
    old = {name.removeprefix("transformer."): array for name, array in
           random_weights(TINY_GPT2).items()}  # fmt: skip
    old["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
    save_safetensors(folder / "model.safetensors", old)
    found = load(folder)
    assert found.tensors.keys() == wanted.tensors.keys()
    assert found.num_parameters == wanted.num_parameters
