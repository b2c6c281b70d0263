"""A model's files to a runner: network, weights, backend, KV cache size. Picks what computes."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.files import ModelFiles, StoredTensor
from shoal.checkpoint.memory import release_freed_memory
from shoal.checkpoint.open import open_model
from shoal.checkpoint.quality import read_quality_loss
from shoal.checkpoint.tokenizer import num_token_ids as count_token_ids
from shoal.errors import ConfigError, ModelFolderError
from shoal.model.adapter import load_adapter
from shoal.model.architectures.base import Architecture
from shoal.model.loader import Checkpoint, read_checkpoint
from shoal.model.spec import DecoderSpec, Role
from shoal.model.weights import MAX_NAMED, num_parameters, stored_format
from shoal.protocol.messages import EngineConfig, LoadedModel, ModelSource
from shoal.protocol.step import KVMemory, LoadedRunner
from shoal.runner.device import available_bytes, choose_device, choose_dtype, usable_cores
from shoal.runner.inputs import Backend
from shoal.runner.kernel_choice import KernelChoice, choose_kernels
from shoal.runner.model_runner import ModelRunner
from shoal.runner.pooling import needs_whole_prompt
from shoal.runner.vocabulary import read_vocabulary
from shoal.sampling.grammars import Grammars
from shoal.sampling.sampler import Sampler

if TYPE_CHECKING:
    from shoal.kernels.native import Dtype

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Model:
    """A network with its weights, before anything computes it."""

    architecture: Architecture
    spec: DecoderSpec
    weights: Mapping[Role, StoredTensor]
    num_token_ids: int
    """Ids the tokenizer knows; the embedding may have more rows."""
    max_tokens: int
    """Of one sequence."""
    remarks: list[str]
    """What of its files is not used, and what they do not say."""


@dataclass(frozen=True, slots=True)
class _Built:
    """What computes a model, and how."""

    backend: Backend
    dtype: str
    device: str
    num_blocks: int
    weight_bytes: int
    quantization: str = "none"
    kv_memory: KVMemory | None = None


def load_runner(
    source: ModelSource,
    config: EngineConfig,
    kv_bytes: int,
    on_progress: Callable[[float], None],
) -> LoadedRunner:
    """`kv_bytes`: this model's share of the KV memory; where models can share all of it, its blocks
    address the whole of `config.kv_cache_bytes`. Raises ModelFolderError or ConfigError."""
    runner = _load(source, config, kv_bytes, on_progress)
    release_freed_memory()
    on_progress(1.0)
    return runner


def _load(
    source: ModelSource,
    config: EngineConfig,
    kv_bytes: int,
    on_progress: Callable[[float], None],
) -> LoadedRunner:
    files = open_model(Path(source.path))
    model = _read(files, config, on_progress)
    choice = choose_kernels(config, model.spec)
    for remark in _remarks(model, choice):
        _log.warning("model %s: %s", source.name, remark)
    sampler: Sampler | None = None
    if choice.kernels == "native":
        from shoal.sampling.native import NativeSampler

        built = _native_backend(model, config, kv_bytes)
        sampler = NativeSampler(model.num_token_ids, vocab_size=model.spec.vocab_size)
    else:
        built = _torch_backend(model, config, kv_bytes)
    on_progress(0.9)
    # What is needed later: not the files, whose pages could not leave memory.
    architecture, spec, path = model.architecture, model.spec, Path(source.path)
    num_token_ids = model.num_token_ids
    runner = ModelRunner(
        built.backend,
        num_token_ids=model.num_token_ids,
        max_rows=config.max_batch_size,
        max_tokens=model.max_tokens,
        block_size=config.block_size,
        sampler=sampler,
        grammars=Grammars(
            lambda: read_vocabulary(open_model(path).tokenizer, num_token_ids),
            learns=config.drafts and spec.may_go_back,
        ),
        num_threads=config.num_threads or usable_cores(),
        read_adapter=lambda path: load_adapter(AdapterFolder(path), architecture, spec),
        embedding=spec.embedding,
    )
    loaded = LoadedModel(
        name=source.name,
        vocab_size=model.num_token_ids,
        max_model_len=model.max_tokens,
        num_parameters=num_parameters(model.weights),
        dtype=built.dtype,
        device=built.device,
        kernels=built.backend.name,
        weights_hash=files.weights_hash,
        weight_bytes=built.weight_bytes,
        quantization=built.quantization,
        quality_loss=(
            read_quality_loss(files, built.quantization) if built.quantization != "none" else None
        ),
        kernels_reason=choice.reason,
        embedding_size=None if spec.embedding is None else spec.hidden_size,
        generates=spec.has_head,
        whole_prompt=needs_whole_prompt(spec),
    )
    return LoadedRunner(runner, loaded, built.num_blocks, built.kv_memory, spec.may_go_back)


def give_back_memory() -> None:
    """What models that are gone have freed, to the system."""
    release_freed_memory()


def check_model(files: ModelFiles, config: EngineConfig) -> list[str]:
    """Reads and checks all that `load_runner` would, and builds nothing; returns remarks for the
    operator. Raises ModelFolderError or ConfigError."""
    model = _read(files, config, lambda progress: None)
    choice = choose_kernels(config, model.spec)
    if choice.kernels == "torch" and config.device == "cuda":
        choose_device(config.device)
    return _remarks(model, choice)


def check_adapter(files: ModelFiles, config: EngineConfig, path: Path) -> None:
    """Reads an adapter of a model as `load_runner`'s runner would. Raises as `check_model`."""
    model = _read(files, config, lambda progress: None)
    load_adapter(AdapterFolder(path), model.architecture, model.spec)


def memory_needed(files: ModelFiles, config: EngineConfig) -> tuple[int, bool]:
    """(bytes that the weights will take, does PyTorch compute). Builds nothing. Raises as
    `check_model`."""
    model = _read(files, config, lambda progress: None)
    if choose_kernels(config, model.spec).kernels == "native":
        return _native_weights(model, config)[2], False
    dtype = choose_dtype(config.dtype, stored_format(model.weights), "cpu")
    return num_parameters(model.weights) * dtype.itemsize, True


def _read(files: ModelFiles, config: EngineConfig, on_progress: Callable[[float], None]) -> _Model:
    max_model_len = config.max_model_len or None
    checkpoint = read_checkpoint(files, lambda share: on_progress(0.6 * share), max_model_len)
    spec = checkpoint.spec
    longest = spec.max_position_embeddings
    if files.embedding is not None and files.embedding.max_tokens is not None:
        longest = min(longest, files.embedding.max_tokens)
    return _Model(
        architecture=checkpoint.architecture,
        spec=spec,
        weights=checkpoint.weights,
        num_token_ids=_num_token_ids(files, spec),
        max_tokens=min(longest, max_model_len or longest),
        remarks=list(_of_files(checkpoint)),
    )


def _of_files(checkpoint: Checkpoint) -> Iterator[str]:
    files, embedding = checkpoint.files, checkpoint.files.embedding
    if checkpoint.unused_keys:
        keys = ", ".join(key[:60] for key in checkpoint.unused_keys)
        yield f"keys of {files.config_file} that are not used: {keys}"
    if unused := checkpoint.unused_tensors:
        more = f" and {len(unused) - MAX_NAMED} more" if len(unused) > MAX_NAMED else ""
        names = ", ".join(name[:60] for name in unused[:MAX_NAMED])
        yield f"tensors of {files.name} that are not used: {names}{more}"
    if embedding is not None:
        yield from embedding.remarks
    elif checkpoint.spec.embedding is not None:
        yield (
            f"{files.name} does not say how a vector is made of a text: it is the mean of the "
            "tokens' vectors, not normalized"
        )


def _remarks(model: _Model, choice: KernelChoice) -> list[str]:
    """What an operator should know and would not expect."""
    remarks = list(model.remarks)
    if choice.reason is not None:
        computes = "PyTorch" if choice.kernels == "torch" else "the CPU"
        remarks.append(f"{computes} computes, because {choice.reason}")
    return remarks


def num_kv_blocks(block_bytes: int, config: EngineConfig, kv_bytes: int, max_tokens: int) -> int:
    """Blocks the budget holds, but no more than a full batch of the longest sequences needs.
    Raises ModelFolderError when not even one sequence fits."""
    affordable = kv_bytes // block_bytes
    useful = config.max_batch_size * -(-max_tokens // config.block_size)
    if affordable < 2:
        raise ModelFolderError(f"kv_cache_bytes is too small: one block takes {block_bytes} bytes")
    return min(affordable, useful)


def _native_weights(model: _Model, config: EngineConfig) -> "tuple[str | None, Dtype, int]":
    """(block type of the file or None, number format, bytes) of the weights in native kernels."""
    from shoal.runner.backends.native import main_block_type, native_dtype, packed_bytes

    block_type = main_block_type(model.weights)
    stored = "float32" if block_type else stored_format(model.weights)
    dtype = native_dtype(config.dtype, stored, config.quantize, block_type is not None)
    return block_type, dtype, packed_bytes(model.weights, dtype)


def _native_backend(model: _Model, config: EngineConfig, kv_bytes: int) -> _Built:
    from shoal.kernels.native import BLOCK_SIZE as NATIVE_BLOCK_SIZE
    from shoal.runner.backends.native import NativeBackend, native_kv_dtype

    if config.block_size != NATIVE_BLOCK_SIZE:
        raise ConfigError(f"block_size must be {NATIVE_BLOCK_SIZE} with native kernels")
    block_type, dtype, weight_bytes = _native_weights(model, config)
    _refuse_too_large(weight_bytes)
    kv_dtype = native_kv_dtype(config.kv_cache_dtype)
    block_bytes = config.block_size * (
        model.spec.kv_numbers_per_token + 4 * _kv_scales(model.spec)
        if kv_dtype == "int8"  # else bfloat16 beside quantized weights
        else model.spec.kv_numbers_per_token * (4 if dtype == "float32" else 2)
    )
    block_bytes += model.spec.state_bytes_per_block(config.block_size)
    num_kv_blocks(block_bytes, config, kv_bytes, model.max_tokens)  # its share holds a sequence
    shared_bytes = max(kv_bytes, config.kv_cache_bytes)
    num_blocks = num_kv_blocks(block_bytes, config, shared_bytes, model.max_tokens)
    backend = NativeBackend(
        model.spec,
        model.weights,
        dtype=dtype,
        num_blocks=num_blocks,
        max_step_tokens=_max_step_tokens(model, config),
        num_threads=config.num_threads or usable_cores(),
        num_token_ids=model.num_token_ids,
        kv_dtype=kv_dtype,
    )
    quantization, name = config.quantize, str(dtype)
    if dtype == "blocks" and block_type is not None:
        quantization, name = block_type, "int4" if block_type.startswith("Q4") else "int8"
    return _Built(
        backend, name, "cpu", num_blocks, backend.weight_bytes, quantization, backend.kv_memory
    )


def _max_step_tokens(model: _Model, config: EngineConfig) -> int:
    """Of all rows; a prompt that is computed whole must fit by itself."""
    whole_prompt = model.max_tokens if needs_whole_prompt(model.spec) else 0
    return max(config.token_budget, config.max_batch_size, whole_prompt)


def _kv_scales(spec: DecoderSpec) -> int:
    """Scales of a token's int8 keys and values: one each per KV head and layer."""
    return sum(2 * layer.attention.num_kv_heads for layer in spec.layers if layer.attends)


def _torch_backend(model: _Model, config: EngineConfig, kv_bytes: int) -> _Built:
    import torch  # not at the top: a backend without it must not pay for it

    from shoal.runner.backends.torch import TorchBackend

    # One core is left to the HTTP side: threads that wait for each other in every small product
    # lose far more to a core that is taken away than they gain.
    torch.set_num_threads(config.num_threads or max(1, usable_cores() - 1))
    device = choose_device(config.device)
    dtype = choose_dtype(config.dtype, stored_format(model.weights), device)
    if device == "cpu":
        _refuse_too_large(num_parameters(model.weights) * dtype.itemsize)
    block_bytes = model.spec.kv_numbers_per_token * dtype.itemsize * config.block_size
    block_bytes += model.spec.state_bytes_per_block(config.block_size)
    num_blocks = num_kv_blocks(block_bytes, config, kv_bytes, model.max_tokens)
    backend = TorchBackend(
        model.spec,
        model.weights,
        dtype=dtype,
        device=device,
        num_blocks=num_blocks,
        block_size=config.block_size,
        num_token_ids=model.num_token_ids,
    )
    name = str(dtype).removeprefix("torch.")
    weight_bytes = num_parameters(model.weights) * dtype.itemsize
    return _Built(backend, name, device, num_blocks, weight_bytes)


def _refuse_too_large(needed: int) -> None:
    """Weights that do not fit are refused before they are unpacked; the KV cache takes memory
    only as it fills. Raises ModelFolderError."""
    available = available_bytes()
    if available is not None and needed > available:
        raise ModelFolderError(
            f"the weights need {needed >> 20} MiB of memory, {available >> 20} MiB are available"
        )


def _num_token_ids(files: ModelFiles, spec: DecoderSpec) -> int:
    """Ids the tokenizer knows, for columns of the embedding beyond them. Raises
    ModelFolderError for a tokenizer with more ids than the embedding has rows."""
    num_ids = count_token_ids(files.tokenizer)
    if num_ids > spec.vocab_size:
        raise ModelFolderError(
            f"{files.tokenizer.where} has {num_ids} ids, the embedding only {spec.vocab_size} rows"
        )
    return num_ids
