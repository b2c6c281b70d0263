"""Adapter folders: every value of the config is used or refused by name, every tensor too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.find_adapters import find_adapters
from shoal.checkpoint.open import open_model
from shoal.errors import ConfigError, ModelFolderError
from shoal.model.adapter import AdapterMatrix, load_adapter
from shoal.model.registry import read_model
from shoal.protocol.messages import ModelSource
from tests.fakes.tiny_adapters import write_adapter
from tests.fakes.tiny_models import bfloat16_bits, save_safetensors, write_tiny_model

A, B = "lora_A.weight", "lora_B.weight"
Q = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "base")


def read(base: Path, adapter: Path) -> list[AdapterMatrix]:
    files = open_model(base)
    description = read_model(files.config, files.config_file)
    return load_adapter(AdapterFolder(adapter), description.architecture, description.spec)


def refusal(base: Path, folder: Path, **changes: Any) -> str:
    write_adapter(folder, base, **{"targets": ("q_proj", "v_proj"), **changes})
    with pytest.raises(ModelFolderError) as caught:
        read(base, folder)
    return caught.value.message


NO_EFFECT: dict[str, Any] = {
    "lora_dropout": 0.1,
    "inference_mode": True,
    "peft_version": "0.21.2",
    "fan_in_fan_out": True,
    "init_lora_weights": "gaussian",
    "some_new_option": False,
    "other_new_option": None,
    "task_type": None,
    "use_dora": False,
    "target_parameters": None,
}


def test_what_changes_nothing_is_accepted(base: Path, tmp_path: Path) -> None:
    plain = read(base, write_adapter(tmp_path / "plain", base))
    found = read(base, write_adapter(tmp_path / "more", base, **NO_EFFECT))
    for one, other in zip(plain, found, strict=True):
        assert np.array_equal(one.a, other.a)
        assert all(np.array_equal(b, c) for b, c in zip(one.b, other.b, strict=True))


REFUSED: dict[str, Any] = {
    "peft_type": "IA3",
    "task_type": "SEQ_CLS",
    "bias": "all",
    "r": 0,
    "lora_alpha": -1,
    "use_rslora": "yes",
    "init_lora_weights": "pissa",
    "use_dora": True,
    "modules_to_save": ["lm_head"],
    "trainable_token_indices": [1, 2],
    "layer_replication": [[0, 2]],
    "lora_bias": True,
    "target_parameters": ["experts.gate_up_proj"],
    "alora_invocation_tokens": [5],
    "some_new_option": 3,
    "rank_pattern": {"q_proj": 0},
    "alpha_pattern": {"(": 3},
    "target_modules": "(",
    "layers_to_transform": ["0"],
    "exclude_modules": 7,
    "base_model_name_or_path": 7,
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_value_that_cannot_be_used_is_refused_by_name(
    key: str, base: Path, tmp_path: Path
) -> None:
    message = refusal(base, tmp_path / "adapter", **{key: REFUSED[key]})
    assert message.startswith(f"adapter/adapter_config.json: {key} must "), message
    assert message.count("\n") == 0


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "a side is missing": ({Q + A: None}, "q_proj has no lora_A.weight"),
    "a module is missing": ({Q + A: None, Q + B: None}, "no matrices of model.layers.0.self_attn"),
    "a module too many": (
        {Q.replace("q_proj", "k_proj") + A: np.ones((4, 48), np.float32),
         Q.replace("q_proj", "k_proj") + B: np.ones((16, 4), np.float32)},
        "target_modules does not name: model.layers.0.self_attn.k_proj",
    ),
    "another rank": ({Q + A: np.ones((5, 48), np.float32)}, "do not have the rank 4"),
    "other inputs": ({Q + A: np.ones((4, 40), np.float32)}, "is for 40 inputs"),
    "other outputs": ({Q + B: np.ones((49, 4), np.float32)}, "49 outputs, the base has 48 and 48"),
    "not finite": ({Q + B: np.full((48, 4), np.nan, np.float32)}, "q_proj hold NaN"),
    "an embedding": (
        {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((4, 9), np.float32)},
        "embed_tokens.lora_embedding_A is no matrix",
    ),
    "dora": ({Q + "lora_magnitude_vector": np.ones(48, np.float32)}, "vector is no matrix"),
    "a whole module": (
        {"base_model.model.lm_head.weight": np.ones((4, 9), np.float32)}, "lm_head.weight is no"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(case: str, base: Path, tmp_path: Path) -> None:
    tensors, message = TENSORS[case]
    assert message in refusal(base, tmp_path / "adapter", tensors=tensors)


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], "model.embed_tokens"])
def test_the_head_and_the_embedding_are_not_adapted(
    targets: Any, base: Path, tmp_path: Path
) -> None:
    message = refusal(base, tmp_path / "adapter", target_modules=targets)
    assert "Shoal adapts linear layers of attention and of plain MLPs only, not " in message


def test_files_that_are_missing_or_of_another_format(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    weights = adapter / "adapter_model.safetensors"
    weights.rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelFolderError, match=r"only adapter_model\.bin: save it as safetensors"):
        read(base, adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(ModelFolderError, match=r"has no adapter_model\.safetensors"):
        read(base, adapter)
    save_safetensors(weights, {})
    with pytest.raises(ModelFolderError, match="has no tensors"):
        read(base, adapter)
    with pytest.raises(ModelFolderError, match="is no adapter: give a folder with adapter_config"):
        read(base, base)


def test_names_of_a_base_without_its_head_and_bfloat16(base: Path, tmp_path: Path) -> None:
    plain = read(base, write_adapter(tmp_path / "plain", base, targets=("o_proj",)))
    adapter = write_adapter(tmp_path / "headless", base, targets=("o_proj",), seed=0)
    arrays: dict[str, Any] = {}
    for matrix in plain:
        name = f"base_model.model.layers.{matrix.layer}.self_attn.o_proj."
        arrays[name + A] = bfloat16_bits(matrix.a)
        arrays[name + B] = matrix.b[0].astype(np.float16)
    save_safetensors(adapter / "adapter_model.safetensors", arrays)
    for one, other in zip(plain, read(base, adapter), strict=True):
        assert np.allclose(one.a, other.a, rtol=2**-7)
        assert np.allclose(one.b[0], other.b[0], rtol=2**-10, atol=1e-6)


# --- which model an adapter changes --------------------------------------------------------------


def test_the_base_is_the_named_one_or_that_of_the_config_or_the_only_one(tmp_path: Path) -> None:
    for name in ("small", "large"):
        write_tiny_model(tmp_path / name)
    models = [
        ModelSource("small", str(tmp_path / "small")),
        ModelSource("other", str(tmp_path / "large")),
    ]
    base = tmp_path / "small"
    one = write_adapter(tmp_path / "one", base, base_model_name_or_path="org/large")
    two = write_adapter(tmp_path / "a=b@c", base)
    lost = write_adapter(tmp_path / "lost", base, base_model_name_or_path="org/unknown")

    def found(*entries: str, served: list[ModelSource] = models) -> list[tuple[str, str]]:
        sources = find_adapters(entries, served)
        assert len({source.adapter_id for source in sources} - {0}) == len(entries)
        return [(source.name, source.model) for source in sources]

    assert found(str(one), f"x={two}", str(two)) == [
        ("one", "other"), ("x", "small"), ("a=b@c", "small")]  # fmt: skip
    assert found(f"y={one}@small", f"{lost}@other") == [("y", "small"), ("lost", "other")]
    assert found(str(lost), served=models[:1]) == [("lost", "small")]
    with pytest.raises(ConfigError, match=r"trained on org/unknown, which is none of small, other"):
        found(str(lost))
    with pytest.raises(ConfigError, match="its base nobody is none of small, other"):
        found(f"{lost}@nobody")
    with pytest.raises(ConfigError, match="two models are named small"):
        found(f"small={one}")
    with pytest.raises(ConfigError, match="two models are named one"):
        found(str(one), f"one={two}")
    with pytest.raises(ConfigError, match="there is no"):
        found(str(tmp_path / "nowhere"))


def test_a_config_that_is_no_json_object(base: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base)
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelFolderError, match="is not a JSON object"):
        read(base, adapter)
    config = json.loads((write_adapter(adapter, base) / "adapter_config.json").read_text())
    del config["target_modules"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match="target_modules must name the adapted modules"):
        read(base, adapter)
