"""The native CPU library as a backend: a whole step is one call, and torch is never imported."""

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.kernels.spec import Dtype, ModelSpec
from shoal.model.config import ModelConfig
from shoal.model.loader import Checkpoint
from shoal.runner.inputs import Float32, HeadOutputs, StepInputs

_VOCABULARY = ("embed_tokens.weight", "wte.weight", "lm_head.weight")
"""Weights with a row per token id."""
_NO_IDS: NDArray[np.int32] = np.empty(0, np.int32)


class NativeBackend:
    """One model with its KV cache in the library's memory."""

    def __init__(
        self,
        checkpoint: Checkpoint,
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
        spec = _spec(checkpoint.config)
        vocab_size = num_token_ids or spec.vocab_size
        self._no_logits = np.empty((0, vocab_size), np.float32)
        self._model = native.NativeModel(
            replace(spec, vocab_size=vocab_size),
            {
                name: tensor.array[:vocab_size] if name.endswith(_VOCABULARY) else tensor.array
                for name, tensor in checkpoint.tensors.items()
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


def _spec(config: ModelConfig) -> ModelSpec:
    shared = {field.name for field in fields(ModelSpec)} & {
        field.name for field in fields(ModelConfig)
    }
    return ModelSpec(**{name: getattr(config, name) for name in shared})
