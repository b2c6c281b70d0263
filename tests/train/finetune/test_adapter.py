"""An adapter that was written: `peft` computes with it what the merged weights do, and so does
Shoal, which takes it for one of peft's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.blocks import dequantize
from shoal.checkpoint.files import StoredTensor
from shoal.errors import ModelFolderError
from shoal.kernels import native
from shoal.model.adapter import ADAPTED_ROLES, load_adapter
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.model.spec import Role
from shoal.runner.inputs import AdaptableBackend
from shoal.train.config import RecipeError
from shoal.train.finetune.export import write_adapter
from shoal.train.finetune.folder import replace_folder
from shoal.train.finetune.rows import LoraSettings
from tests.conformance.served import serve_process
from tests.fakes.tiny_models import write_tiny_model
from tests.model.driving import (
    Batch,
    log_probs,
    make_backend,
    make_backend_of,
    random_ids,
    reference_logits,
    reference_model,
    whole_logits,
)

peft = pytest.importorskip("peft")

TOKEN_IDS = random_ids(40)
ALL = tuple(sorted(ADAPTED_ROLES))
LowRank = dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]


def random_low_rank(
    checkpoint: Checkpoint, settings: LoraSettings, *, shared: bool = False
) -> LowRank:
    """Of every adapted matrix. `shared`: matrices of one fused tensor have the same A."""
    generator = torch.Generator().manual_seed(3)
    found: LowRank = {}
    same: dict[tuple[int, int], torch.Tensor] = {}
    for role, weight in checkpoint.weights.items():
        name = role.name.removesuffix(".weight")
        if role.layer is None or name not in settings.targets or not role.name.endswith("weight"):
            continue
        outputs, inputs = weight.shape
        a = torch.randn(settings.rank, inputs, generator=generator) * inputs**-0.5
        b = torch.randn(outputs, settings.rank, generator=generator) * 0.3
        if shared and name in "qkv":
            a = same.setdefault((role.layer, inputs), a)
        found[role.layer, name] = a, b
    return found


def merged(
    checkpoint: Checkpoint, settings: LoraSettings, low_rank: LowRank
) -> Mapping[Role, StoredTensor]:
    weights = {}
    for role, weight in checkpoint.weights.items():
        array = np.array(dequantize(weight))
        pair = low_rank.get((role.layer or 0, role.name.removesuffix(".weight")))
        if pair is not None and role.layer is not None and role.name.endswith(".weight"):
            a, b = (matrix.double().numpy() for matrix in pair)
            array = (array + settings.alpha / settings.rank * (b @ a)).astype(np.float32)
        weights[role] = StoredTensor("F32", array, "merged")
    return weights


def loaded(path: Path) -> Checkpoint:
    return load_checkpoint(path, lambda progress: None)


def write(out: Path, base: Path, settings: LoraSettings, **options: Any) -> LowRank:
    checkpoint = loaded(base)
    low_rank = random_low_rank(checkpoint, settings, **options)
    replace_folder(
        out, lambda folder: write_adapter(folder, checkpoint, base, settings, low_rank), base
    )
    return low_rank


def config_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text())
    return values


CASES: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "llama": ("llama", ALL, ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj",
                             "v_proj"]),
    "llama, two": ("llama", ("q", "v"), ["q_proj", "v_proj"]),
    "qwen2, biases": ("qwen2", ("k", "output", "up"), ["k_proj", "o_proj", "up_proj"]),
    "gpt2": ("gpt2", ALL, ["c_attn", "c_fc", "c_proj"]),
    "gpt2, part of a fused tensor": ("gpt2", ("v", "down"), ["c_attn", "mlp.c_proj"]),
    "phi3": ("phi3", ALL, ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]),
    "gpt_neox": ("gpt_neox", ALL, ["dense", "dense_4h_to_h", "dense_h_to_4h",
                                   "query_key_value"]),
    "falcon, one kv head": ("falcon", ("q", "k", "v"), ["query_key_value"]),
    "bloom": ("bloom", ("q", "k"), ["query_key_value"]),
    "mpt": ("mpt", ALL, ["Wqkv", "down_proj", "out_proj", "up_proj"]),
    "phi": ("phi", ALL, ["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"]),
    "lfm2, attention of one layer": ("lfm2", ("q", "output"), ["q_proj", "self_attn.out_proj"]),
    "experts, attention": ("qwen3_moe", ("q", "v"), ["q_proj", "v_proj"]),
    "cohere": ("cohere", ("q", "down"), ["down_proj", "q_proj"]),
    "opt": ("opt", ALL, ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shared", [False, True], ids=["an A each", "shared A"])
def test_peft_and_shoal_compute_what_merged_weights_do(
    case: str, shared: bool, tmp_path: Path
) -> None:
    family, targets, names = CASES[case]
    base, out = write_tiny_model(tmp_path / "base", family), tmp_path / "adapter"
    settings = LoraSettings(3, 9.0, targets)
    low_rank = write(out, base, settings, shared=shared)
    assert config_of(out)["target_modules"] == sorted(names)
    checkpoint = loaded(base)
    merged_backend = make_backend_of(checkpoint.spec, merged(checkpoint, settings, low_rank))
    wanted = log_probs(whole_logits(Batch.over(merged_backend), TOKEN_IDS))
    network = peft.PeftModel.from_pretrained(reference_model(base), out)
    found = log_probs(reference_logits(network.eval(), TOKEN_IDS))
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    plain = log_probs(reference_logits(reference_model(base), TOKEN_IDS))
    assert np.abs(plain - wanted).max() > 0.05
    matrices = load_adapter(AdapterFolder(out), checkpoint.architecture, checkpoint.spec)
    backend = make_backend(base)
    assert isinstance(backend, AdaptableBackend)
    backend.load_adapter(5, matrices)
    own = log_probs(whole_logits(Batch.over(backend), TOKEN_IDS, adapter_id=5))
    np.testing.assert_allclose(own, wanted, atol=2e-4)


def test_the_config_is_as_peft_writes_it(tmp_path: Path) -> None:
    base, out = write_tiny_model(tmp_path / "base", "gpt2"), tmp_path / "adapter"
    write(out, base, LoraSettings(4, 8.0, ("q", "k", "v", "up")), shared=True)
    theirs = peft.get_peft_model(
        reference_model(base),
        peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True,
                        task_type="CAUSAL_LM"),
    )  # fmt: skip
    theirs.save_pretrained(tmp_path / "theirs")
    ours, expected = config_of(out), config_of(tmp_path / "theirs")
    assert ours.items() <= {**expected, "target_modules": ["c_attn", "c_fc"]}.items()
    assert ours["base_model_name_or_path"] == str(base)
    names = AdapterFolder(out).modules().keys()
    assert names == AdapterFolder(tmp_path / "theirs").modules().keys()
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lock.json"]  # fmt: skip


def test_an_a_of_each_fused_matrix_makes_the_rank_higher(tmp_path: Path) -> None:
    base, out = write_tiny_model(tmp_path / "base", "gpt2"), tmp_path / "adapter"
    write(out, base, LoraSettings(4, 8.0, ALL))
    config = config_of(out)
    assert (config["r"], config["rank_pattern"], config["alpha_pattern"]) == (
        4, {"c_attn": 12}, {"c_attn": 24.0})  # fmt: skip
    for name, low_rank in AdapterFolder(out).modules().items():
        assert low_rank.scale == 2.0
        assert low_rank.a.shape[0] == (12 if name.endswith("c_attn") else 4)


def test_matrices_that_the_base_does_not_have_are_refused(tmp_path: Path) -> None:
    checkpoint = loaded(write_tiny_model(tmp_path / "base"))
    settings = LoraSettings(2, 2.0, ("q",))
    low_rank = random_low_rank(checkpoint, settings)
    low_rank[7, "q"] = low_rank[0, "q"]
    with pytest.raises(ValueError, match=r"no linear layers for \(7, 'q'\)"):
        write_adapter(tmp_path, checkpoint, Path("base"), settings, low_rank)
    with pytest.raises(ValueError, match="no matrix is adapted"):
        write_adapter(tmp_path, checkpoint, Path("base"), settings, {})


def test_matrices_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    checkpoint = loaded(write_tiny_model(tmp_path / "base"))
    settings = LoraSettings(2, 2.0, ("q", "up"))
    low_rank = random_low_rank(checkpoint, settings)
    low_rank[1, "up"][1][0, 0] = torch.nan
    with pytest.raises(RecipeError, match=r"layers\.1\.up\.weight holds NaN"):
        write_adapter(tmp_path, checkpoint, Path("base"), settings, low_rank)


def test_an_adapter_that_differs_from_its_lock_is_refused(tmp_path: Path) -> None:
    base, out = write_tiny_model(tmp_path / "base"), tmp_path / "adapter"
    write(out, base, LoraSettings(2, 2.0, ("q",)))
    path = out / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelFolderError, match=r"adapter_model\.safetensors differs from lock"):
        AdapterFolder(out).modules()


@pytest.mark.slow
@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
def test_a_server_answers_with_it(tmp_path: Path) -> None:
    """Its greedy answer is the one of peft."""
    base, out = write_tiny_model(tmp_path / "base"), tmp_path / "adapter"
    write(out, base, LoraSettings(4, 16.0, ALL))
    network = peft.PeftModel.from_pretrained(reference_model(base), out).eval()
    prompt = list(b"Once upon")
    wanted = network.generate(
        torch.tensor([prompt]), max_new_tokens=16, do_sample=False, eos_token_id=None
    )
    flags = ("--adapter", str(out), "--dtype", "float32")
    with serve_process(base, *flags) as server:
        body = {"model": "adapter", "prompt": prompt, "max_tokens": 16, "temperature": 0,
                "ignore_eos": True, "return_token_ids": True}  # fmt: skip
        answer = httpx.post(server.url + "/v1/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["token_ids"] == wanted[0, len(prompt) :].tolist()
