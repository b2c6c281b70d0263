"""Logits of both backends against Hugging Face's own networks on random tiny folders."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.tiny_models import Stored, write_tiny_model
from tests.model.driving import BACKENDS, Batch, make_backend, random_ids, whole_logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped heads": ("llama", {}),
    "one kv head": ("llama", {"num_key_value_heads": 1}),
    "as many kv heads": ("llama", {"num_key_value_heads": 6}),
    "no kv heads named": ("llama", {"num_key_value_heads": None}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "head size of its own": ("llama", {"head_dim": 20}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "gelu": ("llama", {"hidden_act": "gelu"}),
    "gelu tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "padded vocabulary": ("llama", {"vocab_size": 300}),
    "theta": ("llama", {"rope_theta": 500000.0}),
    "linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    "dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}}),
    "llama3": ("llama", {"rope_scaling": LLAMA3}),
    "yarn": ("llama", {"rope_scaling": YARN}),
    "yarn, all fields": (
        "llama",
        {
            "rope_scaling": {
                **YARN,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "mscale": 1.2,
                "mscale_all_dim": 0.7,
                "truncate": False,
            }
        },
    ),
    "yarn, attention factor": ("llama", {"rope_scaling": {**YARN, "attention_factor": 1.3}}),
    "newer rope fields": (
        "llama",
        {
            "rope_theta": None,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": 21}),
    "qwen2": ("qwen2", {}),
    "qwen2 with an unused window": (
        "qwen2",
        {"use_sliding_window": False, "sliding_window": 21, "tie_word_embeddings": True},
    ),
    "gpt2": ("gpt2", {}),
    "gpt2 untied, exact gelu, own width": (
        "gpt2",
        {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 100},
    ),
}


def reference_logits(folder: Path, token_ids: list[int]) -> np.ndarray[Any, Any]:
    network, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    # Our list of names and shapes is theirs.
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.inference_mode():
        logits = network.double().eval()(torch.tensor([token_ids])).logits[0]
    found: np.ndarray[Any, Any] = logits.numpy()
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(tmp_path: Path, case: str, backend: str) -> None:
    kind, changes = CASES[case]
    folder = write_tiny_model(tmp_path / "tiny", kind, **changes)
    token_ids = random_ids(150)
    wanted = reference_logits(folder, token_ids)
    found = whole_logits(Batch.over(make_backend(folder, backend)), token_ids)
    assert wanted.std() > 0.5  # else the comparison would say little
    assert np.abs(found - wanted).max() < 1e-4 * max(1.0, wanted.std())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_16_bit_weights_are_computed_exactly_in_float32(
    tmp_path: Path, stored: Stored, backend: str
) -> None:
    folder = write_tiny_model(tmp_path / "tiny", stored=stored)
    token_ids = random_ids(60)
    found = whole_logits(Batch.over(make_backend(folder, backend)), token_ids)
    np.testing.assert_allclose(found, reference_logits(folder, token_ids), atol=1e-4)


def test_bfloat16_logits_are_as_close_as_the_formats_precision(tmp_path: Path) -> None:
    from shoal.model.loader import load_checkpoint
    from shoal.runner.torch_backend import TorchBackend

    folder = write_tiny_model(tmp_path / "tiny", stored="BF16")
    backend = TorchBackend(
        load_checkpoint(folder, lambda progress: None),
        dtype=torch.bfloat16,
        device="cpu",
        num_blocks=20,
        block_size=16,
    )
    token_ids = random_ids(60)
    found = whole_logits(Batch.over(backend, num_blocks=20), token_ids)
    wanted = reference_logits(folder, token_ids)
    assert found.dtype == np.float32
    assert np.abs(found - wanted).mean() < 0.03 * wanted.std()
