"""Logits over the paged cache are those of `transformers`, however the work is cut and mixed.

Every slot of the cache holds NaN until it is written, so one stray read fails any test here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.fakes.tiny_models import write_tiny_gpt2, write_tiny_llama
from tests.model.building import (
    Driver,
    make_backend,
    random_chunks,
    random_tokens,
    transformers_logits,
)

NUM_TOKENS = 90
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_heads_not_grouped": {"num_key_value_heads": 6},
    "llama_one_kv_head": {"num_key_value_heads": 1},
    "llama_head_dim": {"head_dim": 12},
    "llama_tied": {"tie_word_embeddings": True},
    "llama_biases": {"attention_bias": True, "mlp_bias": True},
    "llama_theta_eps": {"rope_theta": 500000.0, "rms_norm_eps": 1e-2},
    "llama_bfloat16": {"torch_dtype": "bfloat16"},
    "llama_float16": {"torch_dtype": "float16"},
    "llama_rope_linear": {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "llama_rope_llama3": {"rope_scaling": LLAMA3},
    "llama_rope_yarn": {"rope_scaling": YARN},
    "llama_rope_yarn_tuned": {
        "rope_scaling": YARN | {"beta_fast": 16, "beta_slow": 2, "attention_factor": 0.8}
    },
    "llama_rope_yarn_mscale": {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}},
    "llama_rope_parameters": {"rope_parameters": LLAMA3 | {"rope_theta": 5000.0}},
    "mistral_window": MISTRAL | {"sliding_window": 23},
    "mistral_no_window": MISTRAL | {"sliding_window": None},
    "qwen2": QWEN2,
    "qwen2_window_off": QWEN2 | {"sliding_window": 16, "use_sliding_window": False},
    "qwen2_window_not_asked_for": QWEN2 | {"sliding_window": 16},
    "qwen2_window": QWEN2
    | {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0},
    "qwen2_window_from_no_layer": QWEN2
    | {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2},
    "gpt2": {"model_type": "gpt2"},
    "gpt2_bfloat16": {"model_type": "gpt2", "torch_dtype": "bfloat16"},
    "gpt2_inner_size": {"model_type": "gpt2", "n_inner": 40, "activation_function": "gelu"},
}


def write_case(folder: Path, name: str) -> Path:
    changes = dict(CASES[name])
    if changes.get("model_type") == "gpt2":
        return write_tiny_gpt2(folder, **changes)
    return write_tiny_llama(folder, **changes)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers_whole_and_in_random_chunks(
    name: str, tmp_path: Path
) -> None:
    folder = write_case(tmp_path / "tiny", name)
    tokens = random_tokens(NUM_TOKENS)
    wanted = transformers_logits(folder, tokens)
    driver = Driver(make_backend(folder))
    chunks = random_chunks(NUM_TOKENS, np.random.default_rng(3))
    for seq, sizes in enumerate(([NUM_TOKENS], chunks)):
        found = driver.whole(seq, tokens, sizes)
        np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "mistral_window", "gpt2"])
def test_sequences_in_one_step_do_not_disturb_each_other(name: str, tmp_path: Path) -> None:
    folder = write_case(tmp_path / "tiny", name)
    rng = np.random.default_rng(5)
    prompts = {seq: random_tokens(count, seq) for seq, count in enumerate([70, 3, 33, 1, 58, 17])}
    wanted = {seq: transformers_logits(folder, tokens) for seq, tokens in prompts.items()}
    left = {seq: random_chunks(len(tokens), rng) for seq, tokens in prompts.items()}
    done = dict.fromkeys(prompts, 0)
    driver = Driver(make_backend(folder))
    while left:
        chosen = [seq for seq in left if rng.random() < 0.7] or list(left)[:1]
        rng.shuffle(chosen)  # prefill and decode rows in any order
        rows = []
        for seq in chosen:
            size = left[seq].pop()
            rows.append((seq, prompts[seq][done[seq] : done[seq] + size]))
        for seq, logits in driver.step(rows).items():
            start, done[seq] = done[seq], done[seq] + len(logits)
            np.testing.assert_allclose(
                logits, wanted[seq][start : done[seq]], atol=1e-4, rtol=0, err_msg=str(seq)
            )
            if not left[seq]:
                del left[seq]
    assert done == {seq: len(tokens) for seq, tokens in prompts.items()}


def test_bfloat16_weights_computed_in_float32_give_what_the_same_float32_weights_give(
    tmp_path: Path,
) -> None:
    from shoal.model.loader import load_checkpoint
    from tests.fakes.tiny_models import save_safetensors

    stored = write_tiny_llama(tmp_path / "stored", torch_dtype="bfloat16")
    widened = write_tiny_llama(tmp_path / "widened")
    arrays = {
        name: (tensor.array.astype(np.uint32) << 16).view(np.float32)
        for name, tensor in load_checkpoint(stored, lambda progress: None).tensors.items()
    }
    save_safetensors(widened / "model.safetensors", arrays)
    tokens = random_tokens(40)
    first, second = (
        Driver(make_backend(folder)).whole(0, tokens, [30, 1, 9]) for folder in (stored, widened)
    )
    np.testing.assert_array_equal(first, second)
