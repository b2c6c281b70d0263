"""Builders for model tests: a backend over a folder, sequences that are fed to it in pieces, and
what `transformers` computes for the same folder.

`Batch` keeps scattered block tables like the scheduler would, so that a test says only which
sequence computes how many tokens.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.open import open_model
from shoal.kernels import native
from shoal.model.registry import read_model
from shoal.model.spec import DecoderSpec, Role
from shoal.model.weights import load_weights
from shoal.runner.inputs import Backend, Float32, StepInputs

BLOCK_SIZE = 16
NUM_BLOCKS = 160
BACKENDS = [
    "torch",
    pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="not built")),
]


def load_folder(folder: Path) -> tuple[DecoderSpec, dict[Role, StoredTensor]]:
    """(network, weights)."""
    files = open_model(folder)
    description = read_model(files.config, files.config_file)
    tensors = files.tensors(lambda progress: None)
    weights = load_weights(description.spec, description.architecture, tensors, files.name)
    return description.spec, weights


def make_backend(
    folder: Path,
    kind: str = "torch",
    *,
    num_blocks: int = NUM_BLOCKS,
    num_threads: int = 1,
    dtype: native.Dtype = "float32",
) -> Backend:
    """On the CPU; `dtype` is for the native kernels. PyTorch's cache holds NaN until it is written,
    so that a stray read cannot pass."""
    return make_backend_of(
        *load_folder(folder), kind, num_blocks=num_blocks, num_threads=num_threads, dtype=dtype
    )


def make_backend_of(
    spec: DecoderSpec,
    weights: Mapping[Role, StoredTensor],
    kind: str = "torch",
    *,
    num_blocks: int = NUM_BLOCKS,
    num_threads: int = 1,
    dtype: native.Dtype = "float32",
) -> Backend:
    """The same over weights in memory."""
    if kind == "native":
        from shoal.runner.backends.native import NativeBackend

        if missing := native.supports(spec):
            pytest.skip(f"native kernels lack {', '.join(missing)}")

        return NativeBackend(
            spec,
            weights,
            dtype=dtype,
            num_blocks=num_blocks,
            max_step_tokens=2048,
            num_threads=num_threads,
        )
    torch = pytest.importorskip("torch")
    from shoal.runner.backends.torch import TorchBackend

    backend = TorchBackend(
        spec,
        weights,
        dtype=torch.float32,
        device="cpu",
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
    )
    fill_cache(backend, torch.nan)
    return backend


def fill_cache(torch_backend: Any, value: float) -> None:
    """All that PyTorch's cache holds, of layers that attend and of others."""
    for layer in torch_backend.cache:
        layer.values.fill_(value)
        if hasattr(layer, "keys"):
            layer.keys.fill_(value)


def reference_model(folder: Path) -> Any:
    """The folder in `transformers`, float32, with all weights found and none left over."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = json.loads((folder / "config.json").read_text())
    network, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=attention_of_reference(config),
        experts_implementation="eager",  # the others take only some sizes
        output_loading_info=True,
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return network.eval()


def attention_of_reference(config: Mapping[str, Any]) -> str:
    """The implementation in `transformers` to compare with. Falcon's eager one adds ALiBi twice."""
    return "sdpa" if config["model_type"] == "falcon" and config.get("alibi") else "eager"


def reference_logits(network: Any, token_ids: list[int]) -> Float32:
    """[n, vocab] of a reference model."""
    import torch

    with torch.inference_mode():
        logits: Float32 = network(torch.tensor([token_ids])).logits[0].numpy()
    return logits


def assert_greedy(network: Any, prompt: list[int], found: list[int]) -> None:
    """The reference model's greedy text after the prompt is `found`: one pass over both, which as
    long as they agree is its own decoding."""
    logits = reference_logits(network, prompt + found)[len(prompt) - 1 : -1]
    assert found == logits.argmax(-1).tolist()


def log_probs(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Natural, of each row."""
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    found: NDArray[np.float64] = values - np.log(np.exp(values).sum(-1, keepdims=True))
    return found


@dataclass(slots=True)
class Sequence:
    """Tokens, how many of them are computed, and where."""

    token_ids: list[int]
    block_ids: list[int] = field(default_factory=list)
    num_computed: int = 0
    adapter_id: int = 0


@dataclass(slots=True)
class Batch:
    """Sequences of one backend over a shuffled pool of blocks."""

    backend: Backend
    free: list[int]

    @classmethod
    def over(
        cls, backend: Backend, *, seed: int | None = 0, num_blocks: int = NUM_BLOCKS
    ) -> "Batch":
        order = np.arange(num_blocks)
        if seed is not None:
            order = np.random.default_rng(seed).permutation(num_blocks)
        return cls(backend, order.tolist())

    def step(self, parts: list[tuple[Sequence, int]], *, every_logit: bool = False) -> Float32:
        """Computes so many more tokens of each; logits of each one's last token, or of all."""
        token_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        for seq, count in parts:
            end = seq.num_computed + count
            while len(seq.block_ids) * BLOCK_SIZE < end:
                seq.block_ids.append(self.free.pop())
            for position in range(seq.num_computed, end):
                token_ids.append(seq.token_ids[position])
                positions.append(position)
                block = seq.block_ids[position // BLOCK_SIZE]
                slots.append(block * BLOCK_SIZE + position % BLOCK_SIZE)
            seq.num_computed = end
            starts.append(len(token_ids))
        lengths = [seq.num_computed for seq, _ in parts]
        width = max(-(-length // BLOCK_SIZE) for length in lengths)
        tables = np.zeros((len(parts), width), np.int32)
        for row, (seq, _) in enumerate(parts):
            used = seq.block_ids[:width]
            tables[row, : len(used)] = used
        adapter_ids = np.array([seq.adapter_id for seq, _ in parts], np.int32)
        wanted = range(len(token_ids)) if every_logit else [start - 1 for start in starts[1:]]
        return self.backend.forward(
            StepInputs(
                token_ids=np.array(token_ids, np.int32),
                positions=np.array(positions, np.int32),
                slots=np.array(slots, np.int32),
                row_starts=np.array(starts, np.int32),
                context_lens=np.array(lengths, np.int32),
                block_tables=tables,
                logit_indices=np.array(wanted, np.int32),
                adapter_ids=adapter_ids if adapter_ids.any() else None,
            )
        )

    def end(self, seq: Sequence) -> None:
        """Gives the blocks back."""
        self.free += seq.block_ids
        seq.block_ids = []


def whole_logits(batch: Batch, token_ids: list[int], adapter_id: int = 0) -> Float32:
    """Logits [n, vocab] of a sequence computed in one go."""
    seq = Sequence(token_ids, adapter_id=adapter_id)
    logits = batch.step([(seq, len(token_ids))], every_logit=True)
    batch.end(seq)
    return logits


def greedy(
    batch: Batch, prompts: list[list[int]], num_tokens: int, adapter_ids: list[int] | None = None
) -> list[list[int]]:
    """The best next tokens of several prompts, computed together."""
    seqs = [
        Sequence(list(prompt), adapter_id=adapter_id)
        for prompt, adapter_id in zip(prompts, adapter_ids or [0] * len(prompts), strict=True)
    ]
    logits = batch.step([(seq, len(seq.token_ids)) for seq in seqs])
    for _ in range(num_tokens - 1):
        append(seqs, logits)
        logits = batch.step([(seq, 1) for seq in seqs])
    append(seqs, logits)
    for seq in seqs:
        batch.end(seq)
    return [seq.token_ids[-num_tokens:] for seq in seqs]


def append(seqs: list[Sequence], logits: Float32) -> None:
    for seq, token_id in zip(seqs, logits.argmax(axis=1).tolist(), strict=True):
        seq.token_ids.append(token_id)


def random_ids(num: int, seed: int = 0, vocab: int = 261) -> list[int]:
    found: NDArray[np.int64] = np.random.default_rng(seed).integers(0, vocab, num)
    return [int(token_id) for token_id in found]


def random_chunks(total: int, rng: np.random.Generator) -> list[int]:
    """Chunk sizes that add up to `total`; single tokens are frequent, as in decoding."""
    chunks: list[int] = []
    while (left := total - sum(chunks)) > 0:
        chunks.append(min(left, int(rng.choice([1, 1, 2, 5, 9, 30]))))
    return chunks
