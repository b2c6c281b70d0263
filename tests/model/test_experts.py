"""Families with experts: where they are, how files hold them, which of them a token meets."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.errors import ModelFolderError
from shoal.model.registry import read_model
from shoal.model.spec import DecoderSpec, ExpertsSpec, Role
from tests.fakes.tiny_models import CONFIGS, random_weights, save_safetensors, write_tiny_model
from tests.kernels.building import make_weights, moe
from tests.model.cases_experts import EXPERT_CASES
from tests.model.changes_experts import as_in_memory
from tests.model.driving import (
    BACKENDS,
    Batch,
    load_folder,
    make_backend,
    make_backend_of,
    random_ids,
    reference_model,
    whole_logits,
)

pytest.importorskip("torch")
pytest.importorskip("transformers")

FAMILIES = sorted(EXPERT_CASES)


def spec_of(family: str, **changes: Any) -> DecoderSpec:
    return read_model(CONFIGS[family] | changes, "tiny/config.json").spec


@pytest.mark.parametrize("is_original", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_is_loaded_in_either_layout(
    tmp_path: Path, family: str, is_original: bool
) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family)
    saved = copytree(folder, tmp_path / "saved")
    (saved / "model.safetensors").unlink()
    reference_model(folder).save_pretrained(saved, save_original_format=is_original)
    (before_spec, before), (spec, weights) = load_folder(folder), load_folder(saved)
    assert spec == before_spec
    assert weights.keys() == before.keys()
    for role, weight in weights.items():
        np.testing.assert_array_equal(weight.array, before[role].array)
        assert not weight.array.flags.writeable


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_of_all_experts_in_one_tensor_are_named_as_such_where_they_do_not_fit(
    tmp_path: Path, family: str
) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family)
    config = json.loads((folder / "config.json").read_text())
    arrays = as_in_memory(config, random_weights(config))
    name = next(name for name in arrays if name.endswith("experts.down_proj"))
    stacked = arrays.pop(name)

    def refused(found: Any, match: str) -> None:
        save_safetensors(folder / "model.safetensors", arrays | found)
        with pytest.raises(ModelFolderError, match=match):
            load_folder(folder)

    refused({}, rf"missing: {name}$")
    refused({name: stacked[:-1].copy()}, rf"shape .*{name} \[{len(stacked) - 1}, ")
    refused({name: stacked.reshape(-1, stacked.shape[-1])}, rf"shape .*{name} ")
    one = "model.layers.0.mlp.experts.0.down_proj.weight"
    refused({name: stacked, one: stacked[0].copy()}, rf"unknown: {one}$")


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", "qwen3_moe")
    arrays = random_weights(json.loads((folder / "config.json").read_text()))
    del arrays["model.layers.0.mlp.experts.3.up_proj.weight"]
    save_safetensors(folder / "model.safetensors", arrays)
    with pytest.raises(ModelFolderError, match=r"missing: .*\.experts\.3\.up_proj\.weight$"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        ({"decoder_sparse_step": 1}, [0, 1, 2, 3, 4, 5]),
        ({"decoder_sparse_step": 2}, [1, 3, 5]),
        ({"decoder_sparse_step": 3, "mlp_only_layers": [5, 99]}, [2]),
        ({"decoder_sparse_step": 1, "mlp_only_layers": None}, [0, 1, 2, 3, 4, 5]),
        ({"decoder_sparse_step": 7}, []),
    ],
)
@pytest.mark.parametrize("family", ["qwen2_moe", "qwen3_moe"])
def test_layers_with_experts(family: str, changes: dict[str, Any], sparse: list[int]) -> None:
    spec = spec_of(family, num_hidden_layers=6, **{"mlp_only_layers": []} | changes)
    assert [i for i, layer in enumerate(spec.layers) if layer.mlp.experts] == sparse
    sizes = [layer.mlp.intermediate_size for layer in spec.layers]
    assert sizes == [40 if index in sparse else 72 for index in range(6)]


def test_the_window_of_qwen2_moe_is_on_every_other_of_the_first_layers() -> None:
    window = {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 4}
    spec = spec_of("qwen2_moe", num_hidden_layers=6, **window)
    windows = [layer.attention.window for layer in spec.layers]
    assert windows == [21, None, 21, None, None, None]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {"num_experts_per_tok": 7}, "num_experts_per_tok must be at most the 6"),
        ("qwen3_moe", {"num_local_experts": 7}, "num_local_experts must be equal to num_experts"),
        ("mixtral", {"num_experts": 7}, "num_experts must be equal to num_local_experts"),
        ("qwen2_moe", {"mlp_only_layers": "all"}, "mlp_only_layers must be a list of layers"),
        ("qwen2_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step must be a whole number"),
        ("olmoe", {"head_dim": 16}, "head_dim must be hidden_size divided among the heads"),
        ("granitemoe", {"mlp_bias": True}, "mlp_bias must be false"),
        ("llama", {"num_experts": 8}, "num_experts must be left out: llama does not have it"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(
    family: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        spec_of(family, **changes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_experts_the_lower_ones_are_picked_and_no_other_counts(backend: str) -> None:
    spec = moe(ExpertsSpec(6, 2, normalized=True), ExpertsSpec(40, 3, normalized=False))
    arrays, tokens = make_weights(spec), random_ids(60)

    def logits() -> Any:
        stored = {role: StoredTensor("F32", array, "tiny") for role, array in arrays.items()}
        return whole_logits(Batch.over(make_backend_of(spec, stored, backend)), tokens)

    for layer in (0, 2):
        arrays[Role("router.weight", layer)][:] = 0
    before = logits()
    for layer, picked in ((0, 2), (2, 3)):
        for role in arrays:
            is_expert = role.layer == layer and role.name.startswith("experts.")
            if is_expert and int(role.name.split(".")[1]) >= picked:
                arrays[role] = arrays[role] * np.float32(np.nan)
    np.testing.assert_array_equal(logits(), before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_far_from_the_others_leaves_their_numbers_alone(
    tmp_path: Path, family: str, backend: str
) -> None:
    """The last of them: what follows a token in its step does not count, expert or not."""
    folder = write_tiny_model(tmp_path / "tiny", family)
    token_ids = random_ids(50)
    batch = Batch.over(make_backend(folder, backend))
    before = whole_logits(batch, token_ids)
    found = whole_logits(batch, [*token_ids[:-1], (token_ids[-1] + 1) % 261])
    np.testing.assert_allclose(found[:-1], before[:-1], atol=1e-5, rtol=0)
    assert np.abs(found[-1] - before[-1]).max() > 1e-3
