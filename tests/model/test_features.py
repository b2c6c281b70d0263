"""Features that a spec has and no family here uses yet: both backends compute them alike, and as
Gemma 2 in `transformers`, which has most of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.kernels import native
from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    Role,
    RotarySpec,
)
from shoal.runner.inputs import Backend
from tests.kernels.building import SPECS, make_weights
from tests.model.driving import (
    BACKENDS,
    BLOCK_SIZE,
    Batch,
    Sequence,
    log_probs,
    random_ids,
    reference_logits,
    whole_logits,
)

torch = pytest.importorskip("torch")

NUM_BLOCKS = 24


def make_backend(kind: str, spec: DecoderSpec, arrays: Mapping[Role, Any]) -> Backend:
    weights = {role: StoredTensor("F32", array, "made up") for role, array in arrays.items()}
    if kind == "native":
        from shoal.runner.backends.native import NativeBackend

        return NativeBackend(
            spec,
            weights,
            dtype="float32",
            num_blocks=NUM_BLOCKS,
            max_step_tokens=256,
            num_threads=1,
        )
    from shoal.runner.backends.torch import TorchBackend

    return TorchBackend(
        spec,
        weights,
        dtype=torch.float32,
        device="cpu",
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
    )


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
@pytest.mark.parametrize("name", SPECS)
def test_pytorch_and_the_native_library_compute_the_same_of_any_spec(name: str) -> None:
    spec = SPECS[name]
    arrays = make_weights(spec)
    token_ids = random_ids(100, vocab=500)
    found = []
    for kind in ("torch", "native"):
        batch = Batch.over(make_backend(kind, spec, arrays), num_blocks=NUM_BLOCKS)
        found.append(log_probs(whole_logits(batch, token_ids)))
        seq = Sequence(token_ids)
        chunks = [batch.step([(seq, size)], every_logit=True) for size in (30, 1, 1, 40, 28)]
        chunked = log_probs(np.concatenate(chunks))
        np.testing.assert_allclose(chunked, found[-1], atol=1e-4, rtol=0)
    np.testing.assert_allclose(found[0], found[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", BACKENDS)
def test_soft_caps_norms_of_branches_and_scaled_embeddings_are_those_of_gemma_2(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma2Config(
        vocab_size=200,
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=20,
        sliding_window=17,
        attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    network = transformers.Gemma2ForCausalLM(config).eval()
    for name, parameter in network.named_parameters():
        values = torch.randn_like(parameter)
        scale = 0.3 if "norm" in name else parameter.shape[-1] ** -0.5
        parameter.data = values * (0.5 if "embed" in name else scale)
    norm = NormSpec("rms", 1e-5, weight_offset=1.0)
    rotary = RotarySpec(tuple(10000.0 ** (-pair / 8) for pair in range(8)))

    def layer(index: int) -> LayerSpec:
        attention = AttentionSpec(
            4,
            2,
            16,
            scale=20**-0.5,
            rotary=rotary,
            window=17 if config.layer_types[index] == "sliding_attention" else None,
            soft_cap=3.0,
        )
        return LayerSpec(attention, MlpSpec(72, "gelu_tanh"), norm, norm, norm, norm)

    spec = DecoderSpec(
        vocab_size=200,
        hidden_size=48,
        max_position_embeddings=256,
        layers=tuple(layer(index) for index in range(3)),
        final_norm=norm,
        tied_head=True,
        embedding_multiplier=48**0.5,
        logit_soft_cap=5.0,
    )
    assert len({each.attention.window for each in spec.layers}) == 2
    names = {
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "attention_post_norm",
        "pre_feedforward_layernorm": "mlp_norm",
        "post_feedforward_layernorm": "mlp_post_norm",
        "self_attn.q_proj": "q",
        "self_attn.k_proj": "k",
        "self_attn.v_proj": "v",
        "self_attn.o_proj": "output",
        "mlp.gate_proj": "gate",
        "mlp.up_proj": "up",
        "mlp.down_proj": "down",
    }
    theirs = {name: tensor.detach().numpy() for name, tensor in network.named_parameters()}
    arrays = {
        Role("embedding"): theirs["model.embed_tokens.weight"],
        Role("final_norm.weight"): theirs["model.norm.weight"],
    } | {
        Role(f"{role}.weight", index): theirs[f"model.layers.{index}.{name}.weight"]
        for name, role in names.items()
        for index in range(3)
    }
    token_ids = random_ids(100, vocab=200)
    found = whole_logits(
        Batch.over(make_backend(kind, spec, arrays), num_blocks=NUM_BLOCKS), token_ids
    )
    expected = log_probs(reference_logits(network, token_ids))
    assert expected.std() > 0.5
    np.testing.assert_allclose(log_probs(found), expected, atol=1e-4, rtol=0)
