"""The native step against Hugging Face's own networks on random tiny configs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from shoal.kernels.spec import ModelSpec

from shoal.kernels.native import available, kernel_sets
from tests.kernels.twin import GPT2, LLAMA, logits_of, make_model, random_tokens, rotary

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def llama_network(spec: ModelSpec, kind: str) -> Any:
    config = getattr(transformers, kind + "Config")(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.mlp_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_size,
        max_position_embeddings=spec.max_positions,
        rms_norm_eps=spec.norm_eps,
        tie_word_embeddings=spec.tied_embeddings,
        initializer_range=0.2,
        attn_implementation="eager",
        **({"attention_bias": spec.output_bias, "mlp_bias": spec.mlp_bias}
           if kind == "Llama" else {}),
        **({"sliding_window": spec.sliding_window} if kind == "Mistral" else {}),
    )  # fmt: skip
    return getattr(transformers, kind + "ForCausalLM")(config)


def gpt2_network(spec: ModelSpec) -> Any:
    config = transformers.GPT2Config(
        vocab_size=spec.vocab_size,
        n_positions=spec.max_positions,
        n_embd=spec.hidden_size,
        n_layer=spec.num_layers,
        n_head=spec.num_heads,
        n_inner=spec.mlp_size,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config)


CASES = {
    "llama": ("Llama", LLAMA),
    "llama_tied_biases": (
        "Llama",
        replace(LLAMA, tied_embeddings=True, qkv_bias=True, output_bias=True, mlp_bias=True),
    ),
    "llama_odd_sizes": (
        "Llama",
        rotary(LLAMA, vocab_size=301, hidden_size=50, num_heads=5, num_kv_heads=5, head_size=10),
    ),
    "qwen2": ("Qwen2", replace(LLAMA, qkv_bias=True)),
    "qwen3": ("Qwen3", replace(LLAMA, query_key_norm=True)),
    "mistral": ("Mistral", replace(LLAMA, sliding_window=33)),
    "gpt2": ("GPT2", GPT2),
}


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", CASES)
def test_logits_equal_those_of_transformers(name: str, kernel_set: str) -> None:
    kind, spec = CASES[name]
    torch.manual_seed(0)
    network = gpt2_network(spec) if kind == "GPT2" else llama_network(spec, kind)
    for parameter in network.parameters():
        if parameter.ndim == 1:  # norms start at one and biases at zero: make them count
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    network = network.double().eval()
    tokens = random_tokens(spec, 70)
    with torch.inference_mode():
        wanted = network(torch.tensor([tokens])).logits[0].numpy()
    weights = {k: v.float().numpy() for k, v in network.state_dict().items()}
    found = logits_of(make_model(spec, weights, kernel_set=kernel_set), tokens)
    assert np.abs(found - wanted).max() / wanted.std() < 1e-4
