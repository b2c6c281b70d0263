"""A model folder to a runner: checkpoint, backend, KV cache size. Picks what computes."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shoal.errors import ConfigError, ModelFolderError
from shoal.model.config import ModelConfig
from shoal.model.fields import read_json
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.protocol.messages import EngineConfig, LoadedModel, ModelSource
from shoal.runner.device import (
    available_bytes,
    choose_device,
    choose_dtype,
    has_gpu,
    usable_cores,
)
from shoal.runner.inputs import Backend
from shoal.runner.model_runner import ModelRunner
from shoal.runner.quality import read_quality_loss
from shoal.runner.sampling import Sampling


@dataclass(frozen=True, slots=True)
class _Built:
    """What computes a model, and how."""

    backend: Backend
    dtype: str
    device: str
    num_blocks: int
    weight_bytes: int


def load_runner(
    source: ModelSource,
    config: EngineConfig,
    kv_bytes: int,
    on_progress: Callable[[float], None],
) -> tuple[ModelRunner, LoadedModel, int]:
    """(runner, what it is, number of KV blocks). Raises ModelFolderError or ConfigError."""
    folder = Path(source.path)
    checkpoint = load_checkpoint(folder, on_progress)
    num_token_ids = _num_token_ids(folder, checkpoint.config)
    max_tokens = checkpoint.config.max_positions
    if config.max_model_len > 0:
        max_tokens = min(max_tokens, config.max_model_len)
    is_quantized = config.quantize != "none"
    quality_loss = read_quality_loss(folder, config.quantize) if is_quantized else None
    sampling: Sampling | None = None
    if _uses_native(config):
        from shoal.runner.native_sampling import NativeSampling

        built = _native_backend(checkpoint, config, kv_bytes, max_tokens, num_token_ids)
        sampling = NativeSampling(num_token_ids)
    else:
        built = _torch_backend(checkpoint, config, kv_bytes, max_tokens)
    on_progress(0.9)
    runner = ModelRunner(
        built.backend,
        num_token_ids=num_token_ids,
        max_rows=config.max_batch_size,
        max_tokens=max_tokens,
        block_size=config.block_size,
        sampling=sampling,
    )
    on_progress(1.0)
    loaded = LoadedModel(
        name=source.name,
        vocab_size=num_token_ids,
        max_model_len=max_tokens,
        num_parameters=checkpoint.num_parameters,
        dtype=built.dtype,
        device=built.device,
        kernels=built.backend.name,
        weights_hash=checkpoint.weights_hash,
        weight_bytes=built.weight_bytes,
        quantization=config.quantize,
        quality_loss=quality_loss,
    )
    return runner, loaded, built.num_blocks


def num_kv_blocks(
    model: ModelConfig, config: EngineConfig, kv_bytes: int, bytes_per_number: int, max_tokens: int
) -> int:
    """Blocks the budget holds, but no more than a full batch of the longest sequences needs.
    Raises ModelFolderError when not even one sequence fits."""
    per_token = 2 * model.num_layers * model.num_kv_heads * model.head_size * bytes_per_number
    affordable = kv_bytes // (per_token * config.block_size)
    useful = config.max_batch_size * -(-max_tokens // config.block_size)
    if affordable < 2:
        raise ModelFolderError(
            f"kv_cache_bytes is too small: one block takes {per_token * config.block_size} bytes"
        )
    return min(affordable, useful)


def _uses_native(config: EngineConfig) -> bool:
    """auto: the native library where it is built, unless there is a GPU to use. Raises
    ConfigError for kernels and device that do not fit."""
    if config.kernels == "native" and config.device == "cuda":
        raise ConfigError("kernels=native compute on the CPU; device cuda needs kernels=torch")
    uses_native = _chooses_native(config)
    if config.quantize != "none" and not uses_native:
        raise ConfigError(
            f"quantize={config.quantize} needs the native CPU kernels, and PyTorch would compute "
            "here: set quantize=none, or device=cpu and kernels=native (a library that is not "
            "built comes with a reinstall of Shoal with a C++ compiler at hand)"
        )
    return uses_native


def _chooses_native(config: EngineConfig) -> bool:
    if config.kernels != "auto":
        return config.kernels == "native"
    from shoal.kernels import native

    on_gpu = config.device == "cuda" or (config.device == "auto" and has_gpu())
    return native.available() and not on_gpu


def _native_backend(
    checkpoint: Checkpoint,
    config: EngineConfig,
    kv_bytes: int,
    max_tokens: int,
    num_token_ids: int,
) -> _Built:
    from shoal.kernels.native import BLOCK_SIZE as NATIVE_BLOCK_SIZE
    from shoal.runner.native_backend import NativeBackend, native_dtype

    if config.block_size != NATIVE_BLOCK_SIZE:
        raise ConfigError(f"block_size must be {NATIVE_BLOCK_SIZE} with native kernels")
    dtype = native_dtype(config.dtype, checkpoint.dtype, config.quantize)
    _refuse_too_large(checkpoint, {"float32": 4, "bfloat16": 2, "int8": 1}[dtype])
    kv_number_bytes = 4 if dtype == "float32" else 2  # keys and values of int8 are bfloat16
    num_blocks = num_kv_blocks(checkpoint.config, config, kv_bytes, kv_number_bytes, max_tokens)
    backend = NativeBackend(
        checkpoint,
        dtype=dtype,
        num_blocks=num_blocks,
        max_step_tokens=max(config.token_budget, config.max_batch_size),
        num_threads=config.num_threads or usable_cores(),
        num_token_ids=num_token_ids,
    )
    return _Built(backend, dtype, "cpu", num_blocks, backend.weight_bytes)


def _torch_backend(
    checkpoint: Checkpoint, config: EngineConfig, kv_bytes: int, max_tokens: int
) -> _Built:
    if find_spec("torch") is None:
        raise ConfigError("PyTorch would compute here, and is missing: pip install 'shoal[torch]'")
    import torch  # not at the top: a backend without it must not pay for it

    from shoal.runner.torch_backend import TorchBackend

    # One core is left to the HTTP side: threads that wait for each other in every small product
    # lose far more to a core that is taken away than they gain.
    torch.set_num_threads(config.num_threads or max(1, usable_cores() - 1))
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, checkpoint.dtype, device)
    if device == "cpu":
        _refuse_too_large(checkpoint, dtype.itemsize)
    num_blocks = num_kv_blocks(checkpoint.config, config, kv_bytes, dtype.itemsize, max_tokens)
    backend = TorchBackend(
        checkpoint,
        dtype=dtype,
        device=device,
        num_blocks=num_blocks,
        block_size=config.block_size,
    )
    name = str(dtype).removeprefix("torch.")
    return _Built(backend, name, device, num_blocks, checkpoint.num_parameters * dtype.itemsize)


def _refuse_too_large(checkpoint: Checkpoint, bytes_per_number: int) -> None:
    """Weights that do not fit are refused before they are unpacked; the KV cache takes memory
    only as it fills. Raises ModelFolderError."""
    needed = checkpoint.num_parameters * bytes_per_number
    available = available_bytes()
    if available is not None and needed > available:
        raise ModelFolderError(
            f"the weights need {needed >> 20} MiB of memory, {available >> 20} MiB are available"
        )


def _num_token_ids(folder: Path, config: ModelConfig) -> int:
    """Ids the tokenizer knows, for columns of the embedding beyond them. Raises
    ModelFolderError for a tokenizer with more ids than the embedding has rows."""
    tokenizer = read_json(folder / "tokenizer.json")
    try:
        vocab = tokenizer["model"]["vocab"]
        pieces = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        added = (token["id"] for token in tokenizer.get("added_tokens", ()))
        num_ids = max((*pieces, *added)) + 1
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"{folder.name}/tokenizer.json is not valid") from error
    if num_ids > config.vocab_size:
        raise ModelFolderError(
            f"{folder.name}: tokenizer.json has {num_ids} ids, "
            f"the embedding only {config.vocab_size} rows"
        )
    return int(num_ids)
