"""The native CPU library as a backend: a whole step is one call, and torch is never imported."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shoal.checkpoint.files import StoredTensor
from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.kernels.spec import Dtype, ModelSpec
from shoal.model.registry import ARCHITECTURES
from shoal.model.spec import DecoderSpec, Role
from shoal.model.weights import expected_tensors
from shoal.runner.inputs import Float32, HeadOutputs, StepInputs

_VOCABULARY = ("embed_tokens.weight", "wte.weight", "lm_head.weight")
"""Weights with a row per token id."""
_NO_IDS: NDArray[np.int32] = np.empty(0, np.int32)


class NativeBackend:
    """One model with its KV cache in the library's memory."""

    def __init__(
        self,
        decoder: DecoderSpec,
        weights: Mapping[Role, StoredTensor],
        *,
        dtype: Dtype,
        num_blocks: int,
        max_step_tokens: int,
        num_threads: int,
        num_token_ids: int | None = None,
    ) -> None:
        """`max_step_tokens`: most tokens of one step. `num_token_ids`: the rest of a padded
        vocabulary is left out. Raises ConfigError when the library is not built."""
        if not native.available():
            raise ConfigError(
                "kernels=native was asked for, and the native library is not built: reinstall "
                "Shoal with a C++ compiler at hand"
            )
        spec = _spec(decoder)
        vocab_size = num_token_ids or spec.vocab_size
        self._no_logits = np.empty((0, vocab_size), np.float32)
        self._model = native.NativeModel(
            replace(spec, vocab_size=vocab_size),
            {
                name: tensor.array[:vocab_size] if name.endswith(_VOCABULARY) else tensor.array
                for name, tensor in _by_name(decoder, weights).items()
            },
            dtype=dtype,
            num_blocks=num_blocks,
            max_tokens=max_step_tokens,
            num_threads=num_threads,
        )
        self.name = self._model.kernel_set
        self.weight_bytes = self._model.weight_bytes

    def forward(self, inputs: StepInputs) -> Float32:
        """float32 logits [L, vocab]."""
        return self._model.forward(
            inputs.token_ids,
            inputs.positions,
            inputs.slots,
            inputs.row_starts,
            inputs.context_lens,
            inputs.block_tables,
            inputs.logit_indices,
        )

    def forward_best(self, inputs: StepInputs, num_logits: int) -> HeadOutputs:
        """Best ids of all L tokens; logits of the first `num_logits` only."""
        if len(inputs.logit_indices) == 0:
            self.forward(inputs)
            return HeadOutputs(_NO_IDS, self._no_logits[:, 0], self._no_logits)
        head = self._model.forward_head(
            inputs.token_ids,
            inputs.positions,
            inputs.slots,
            inputs.row_starts,
            inputs.context_lens,
            inputs.block_tables,
            inputs.logit_indices,
            num_logits=num_logits,
            top=1,
        )
        assert head.top_ids is not None, "the best ids were asked for"
        assert head.top_logits is not None, "the best logits were asked for"
        logits = self._no_logits if head.logits is None else head.logits
        return HeadOutputs(head.top_ids[:, 0], head.top_logits[:, 0], logits)


def native_dtype(wanted: str, stored: str, quantize: str = "none") -> Dtype:
    """auto: the checkpoint's own; bfloat16 weights stay 16 bits in memory, sums are float32.
    Quantized weights are int8 whatever was stored. Raises ConfigError for what contradicts."""
    if quantize == "int8":
        if wanted == "float32":
            raise ConfigError("dtype=float32 and quantize=int8 contradict: set one of them only")
        return "int8"
    if wanted == "float32":
        return "float32"
    if wanted == "bfloat16":
        return "bfloat16"
    return "bfloat16" if stored == "bfloat16" else "float32"


def _spec(spec: DecoderSpec) -> ModelSpec:
    layer = spec.layers[0]
    attention, mlp = layer.attention, layer.mlp
    rotary = attention.rotary
    return ModelSpec(
        architecture="llama" if mlp.gated else "gpt2",
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_size=attention.head_dim,
        mlp_size=mlp.intermediate_size,
        max_positions=spec.max_position_embeddings,
        norm_eps=spec.final_norm.eps,
        tied_embeddings=spec.tied_head,
        activation=mlp.activation,
        qkv_bias=attention.qkv_bias,
        output_bias=attention.output_bias,
        mlp_bias=mlp.bias,
        sliding_window=attention.window,
        inv_freq=rotary.inv_freq if rotary else (),
        rope_attention_scale=rotary.magnitude if rotary else 1.0,
    )


def _by_name(spec: DecoderSpec, weights: Mapping[Role, StoredTensor]) -> dict[str, StoredTensor]:
    name = "LlamaForCausalLM" if spec.layers[0].mlp.gated else "GPT2LMHeadModel"
    found = {}
    for key, (_, source, layer) in expected_tensors(ARCHITECTURES[name], spec).items():
        parts = [weights[Role(role, layer)] for role in source.roles]
        array = np.concatenate([part.array for part in parts]) if len(parts) > 1 else parts[0].array
        array = np.ascontiguousarray(array.T) if source.transposed else array
        found[key] = StoredTensor(parts[0].dtype, array, "")
    return found
