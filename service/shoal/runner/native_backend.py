"""The native CPU library as a backend: a whole step is one call, and torch is never imported."""

from dataclasses import fields

from shoal.errors import ConfigError
from shoal.kernels import native
from shoal.kernels.spec import Dtype, ModelSpec
from shoal.model.config import ModelConfig
from shoal.model.loader import Checkpoint
from shoal.runner.inputs import Float32, StepInputs


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
    ) -> None:
        """`max_step_tokens`: most tokens of one step. Raises ConfigError when the library is not
        built."""
        if not native.available():
            raise ConfigError(
                "kernels=native was asked for, and the native library is not built: reinstall "
                "Shoal with a C++ compiler at hand"
            )
        self._model = native.NativeModel(
            _spec(checkpoint.config),
            {name: tensor.array for name, tensor in checkpoint.tensors.items()},
            dtype=dtype,
            num_blocks=num_blocks,
            max_tokens=max_step_tokens,
            num_threads=num_threads,
        )
        self.name = self._model.kernel_set

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


def native_dtype(wanted: str, stored: str) -> Dtype:
    """auto: the checkpoint's own; bfloat16 weights stay 16 bits in memory, sums are float32."""
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
