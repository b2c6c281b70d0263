"""Python side of the native CPU kernels: a model step is one call. numpy only, never torch.

Says which weight goes where (Hugging Face names) and checks that each is there with its shape.
A weight is float32, float16, or uint16 that holds the bits of bfloat16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoal.kernels.spec import Dtype, ModelSpec

try:
    from shoal.kernels import _native
except ImportError:  # installed without a compiler: callers ask available() first
    _BUILT = False
else:
    _BUILT = True

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
KernelSet = Literal["auto", "portable", "avx2", "avx512", "avx512bf16"]

BLOCK_SIZE = 16
"""Tokens per KV block."""
_PANEL = 16
_ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3}


def available() -> bool:
    """Whether the library was built for this Python."""
    return _BUILT


def kernel_sets() -> list[str]:
    """The sets this machine can run, best first; empty without the library."""
    return _native.kernel_sets() if _BUILT else []


def supports(spec: Any) -> str | None:
    """TEMPORARY until the native library executes the spec: what it does not know, or None."""
    layers = spec.layers
    first = layers[0]
    is_llama = first.mlp.gated and first.attention.rotary is not None
    if any(layer != first for layer in layers):
        return "layers that differ"
    if first.parallel or first.attention.qk_norm or spec.head_bias:
        return "parallel layers, q/k norms or head bias"
    if is_llama and 2 * len(first.attention.rotary.inv_freq) != first.attention.head_dim:
        return "partial rotary"
    if first.attention.scale != first.attention.head_dim**-0.5:
        return "attention scale"
    return None


@dataclass(frozen=True, slots=True)
class HeadResult:
    """What the head found for the L rows asked for; None for what was not asked."""

    logits: Float32 | None
    """[first rows that wanted them, vocab]"""
    top_ids: Int32 | None
    """[L, k], best first; of equal logits the lower id."""
    top_logits: Float32 | None
    """[L, k]"""
    log_sum_exp: Float32 | None
    """[L]; a logit minus this is its log-probability."""
    target_logits: Float32 | None
    """[L]: logit of the target id."""
    hidden: Float32 | None
    """[L, hidden_size], after the last norm."""


class NativeModel:
    """Weights, KV cache and thread team of one model.

    A row's results depend on its own tokens alone, bit for bit: not on the other rows, the chunk
    size, the number of threads. Raises ValueError for weights or inputs that do not fit. A step
    lets go of the interpreter lock; one caller at a time.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Mapping[str, NDArray[Any]],
        *,
        dtype: Dtype,
        num_blocks: int,
        max_tokens: int,
        num_threads: int,
        kernel_set: KernelSet = "auto",
        spin_us: int = 50,
        cache_bytes: int | None = None,
    ) -> None:
        """`cache_bytes`: of the last-level cache; bf16 weights that it does not hold are packed
        tighter where the kernel set can. None asks the machine."""
        if not _BUILT:
            raise RuntimeError("the native kernels are not built; available() says so beforehand")
        for name, value in (("num_blocks", num_blocks), ("max_tokens", max_tokens),
                            ("num_threads", num_threads)):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.spec = spec
        self.dtype: Dtype = dtype
        self.num_blocks = num_blocks
        self.max_tokens = max_tokens
        self._model = _native.make_model(
            _flat(spec), dtype, kernel_set, num_blocks, max_tokens, num_threads, spin_us,
            cache_bytes,
        )  # fmt: skip
        _Packer(spec, weights, self._model).pack()

    @property
    def kernel_set(self) -> str:
        """The instruction set that runs: portable, avx2, avx512 or avx512bf16."""
        return self._model.kernel_set

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights."""
        return self._model.weight_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of one KV block in all layers; memory only once it is written."""
        return self._model.block_bytes

    @property
    def memory_bytes(self) -> int:
        """Weights and the whole KV cache."""
        return self.weight_bytes + self.num_blocks * self.block_bytes

    def forward(
        self,
        token_ids: Int32,
        positions: Int32,
        slots: Int32,
        row_starts: Int32,
        context_lens: Int32,
        block_tables: Int32,
        logit_indices: Int32,
        out: Float32 | None = None,
    ) -> Float32:
        """Computes T tokens of R rows, writes their keys and values; float32 logits [L, vocab].

        `slots` are where each token's keys and values go; the tokens of a row are the last ones of
        its `context_lens[r]`. Two rows may share blocks that no row of this step writes.
        """
        if out is None:
            out = np.empty((len(logit_indices), self.spec.vocab_size), np.float32)
        self._model.step(
            token_ids, positions, slots, row_starts, context_lens, block_tables, logit_indices,
            out, None, None, None, None, None, None,
        )  # fmt: skip
        return out

    def forward_greedy(
        self,
        token_ids: Int32,
        positions: Int32,
        slots: Int32,
        row_starts: Int32,
        context_lens: Int32,
        block_tables: Int32,
        logit_indices: Int32,
    ) -> Int32:
        """The same step, but only the best id of each row [L]; no logits are written anywhere."""
        ids = np.empty((len(logit_indices), 1), np.int32)
        self._model.step(
            token_ids, positions, slots, row_starts, context_lens, block_tables, logit_indices,
            None, ids, None, None, None, None, None,
        )  # fmt: skip
        return ids[:, 0]

    def forward_head(
        self,
        token_ids: Int32,
        positions: Int32,
        slots: Int32,
        row_starts: Int32,
        context_lens: Int32,
        block_tables: Int32,
        logit_indices: Int32,
        *,
        num_logits: int = 0,
        top: int = 0,
        log_sum_exp: bool = False,
        target_ids: Int32 | None = None,
        hidden: bool = False,
    ) -> HeadResult:
        """The same step with several wishes served by one pass over the head's weights.

        The first `num_logits` rows get full logits, every row gets the `top` best ids and logits,
        the log-sum-exp, the logit of its target id and its hidden state, each if asked for.
        """
        rows, vocab = len(logit_indices), self.spec.vocab_size
        if num_logits > rows or top > vocab:
            raise ValueError("num_logits exceeds the rows or top exceeds the vocabulary")
        result = HeadResult(
            logits=np.empty((num_logits, vocab), np.float32) if num_logits else None,
            top_ids=np.empty((rows, top), np.int32) if top else None,
            top_logits=np.empty((rows, top), np.float32) if top else None,
            log_sum_exp=np.empty(rows, np.float32) if log_sum_exp else None,
            target_logits=np.empty(rows, np.float32) if target_ids is not None else None,
            hidden=np.empty((rows, self.spec.hidden_size), np.float32) if hidden else None,
        )
        self._model.step(
            token_ids, positions, slots, row_starts, context_lens, block_tables, logit_indices,
            result.logits, result.top_ids, result.top_logits, result.log_sum_exp, target_ids,
            result.target_logits, result.hidden,
        )  # fmt: skip
        return result

    def copy_block(self, source: int, target: int) -> None:
        """Copies the keys and values of one block to another, in all layers."""
        self._model.copy_block(source, target)


def _flat(spec: ModelSpec) -> dict[str, Any]:
    return {
        "vocab": spec.vocab_size,
        "width": spec.hidden_size,
        "layers": spec.num_layers,
        "heads": spec.num_heads,
        "kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_size,
        "mlp_width": spec.mlp_size,
        "max_positions": spec.max_positions,
        "eps": spec.norm_eps,
        "layer_norm": spec.architecture == "gpt2",
        "gated": spec.architecture == "llama",
        "tied": spec.tied_embeddings,
        "learned_positions": spec.architecture == "gpt2",
        "activation": _ACTIVATIONS[spec.activation],
        "query_scale": spec.head_size**-0.5,
        "window": spec.sliding_window or 0,
        "soft_cap": spec.attention_soft_cap or 0.0,
        "rope_scaling": spec.rope_attention_scale,
        "inverse_frequencies": list(spec.inv_freq),
    }


def to_float32(weight: NDArray[Any]) -> Float32:
    """A weight's values; uint16 is read as the bits of bfloat16."""
    if weight.dtype == np.uint16:
        return (weight.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(weight, np.float32)


def _padded(vector: Float32) -> Float32:
    return np.pad(vector, (0, -len(vector) % _PANEL))


class _Packer:
    """Hands every weight of a model to the library, under the name the library has for it."""

    def __init__(
        self, spec: ModelSpec, weights: Mapping[str, NDArray[Any]], model: "_native.Model"
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.model = model

    def pack(self) -> None:
        if self.spec.architecture == "llama":
            self.pack_llama()
        else:
            self.pack_gpt2()

    def get(self, name: str, *shape: int) -> NDArray[Any]:
        if name not in self.weights:
            raise ValueError(f"weight {name} is missing")
        weight = self.weights[name]
        if weight.shape != shape:
            raise ValueError(f"weight {name} is {weight.shape}, the model needs {shape}")
        if weight.dtype not in (np.float32, np.float16, np.uint16):
            raise ValueError(f"weight {name} is {weight.dtype}, not float32, float16 or bf16 bits")
        return weight

    def vector(self, layer: int, name: str, *parts: tuple[str, int]) -> None:
        values = np.concatenate([to_float32(self.get(part, size)) for part, size in parts])
        self.model.set_vector(layer, name, _padded(values))

    def linear(self, layer: int, name: str, inputs: int, *parts: tuple[str, int]) -> None:
        """Matrices [outputs, inputs] one below the other."""
        self.model.allocate(layer, name, sum(size for _, size in parts), inputs)
        first = 0
        for part, size in parts:
            self.model.pack(layer, name, self.get(part, size, inputs), False, first, 0)
            first += size

    def conv1d(self, layer: int, name: str, part: str, inputs: int, outputs: int) -> None:
        """GPT-2 keeps its matrices as [inputs, outputs]."""
        self.model.allocate(layer, name, outputs, inputs)
        self.model.pack(layer, name, self.get(part + ".weight", inputs, outputs), True, 0, 0)
        self.vector(layer, name + ".bias", (part + ".bias", outputs))

    def embedding_and_head(self, embedding: str) -> None:
        spec = self.spec
        shape = (spec.vocab_size, spec.hidden_size)
        if not spec.tied_embeddings:
            self.model.set_table("tokens", self.get(embedding, *shape))
        head = embedding if spec.tied_embeddings else "lm_head.weight"
        self.linear(0, "head", spec.hidden_size, (head, spec.vocab_size))

    def pack_llama(self) -> None:
        spec, width = self.spec, self.spec.hidden_size
        self.embedding_and_head("model.embed_tokens.weight")
        self.vector(0, "final_norm.weight", ("model.norm.weight", width))
        sizes = {"q": spec.query_size, "k": spec.kv_size, "v": spec.kv_size}
        for i in range(spec.num_layers):
            at = f"model.layers.{i}."
            self.vector(i, "attention_norm.weight", (at + "input_layernorm.weight", width))
            self.vector(i, "mlp_norm.weight", (at + "post_attention_layernorm.weight", width))
            qkv = [(f"{at}self_attn.{n}_proj", size) for n, size in sizes.items()]
            self.linear(i, "qkv", width, *((n + ".weight", size) for n, size in qkv))
            if spec.qkv_bias:
                self.vector(i, "qkv.bias", *((n + ".bias", size) for n, size in qkv))
            if spec.query_key_norm:
                self.vector(i, "query_norm", (at + "self_attn.q_norm.weight", spec.head_size))
                self.vector(i, "key_norm", (at + "self_attn.k_norm.weight", spec.head_size))
            output = at + "self_attn.o_proj"
            self.linear(i, "output", spec.query_size, (output + ".weight", width))
            if spec.output_bias:
                self.vector(i, "output.bias", (output + ".bias", width))
            self.gated_mlp(i, at + "mlp.")

    def gated_mlp(self, layer: int, at: str) -> None:
        spec, size = self.spec, self.spec.mlp_size
        padded = -(-size // _PANEL) * _PANEL
        self.model.allocate(layer, "up", 2 * padded, spec.hidden_size)
        for part, name in enumerate(("gate_proj", "up_proj"), start=1):
            matrix = self.get(f"{at}{name}.weight", size, spec.hidden_size)
            self.model.pack(layer, "up", matrix, False, 0, part)
        self.linear(layer, "down", size, (at + "down_proj.weight", spec.hidden_size))
        if spec.mlp_bias:
            pair = [
                _padded(to_float32(self.get(f"{at}{n}_proj.bias", size))) for n in ("gate", "up")
            ]
            interleaved = np.stack([bias.reshape(-1, _PANEL) for bias in pair], axis=1)
            self.model.set_vector(layer, "up.bias", interleaved.reshape(-1))
            self.vector(layer, "down.bias", (at + "down_proj.bias", spec.hidden_size))

    def pack_gpt2(self) -> None:
        spec, width = self.spec, self.spec.hidden_size
        prefix = "transformer." if "transformer.wte.weight" in self.weights else ""
        self.embedding_and_head(prefix + "wte.weight")
        positions = self.get(prefix + "wpe.weight", spec.max_positions, width)
        self.model.set_table("positions", positions)
        for kind in ("weight", "bias"):
            self.vector(0, f"final_norm.{kind}", (f"{prefix}ln_f.{kind}", width))
        for i in range(spec.num_layers):
            at = f"{prefix}h.{i}."
            for kind in ("weight", "bias"):
                self.vector(i, f"attention_norm.{kind}", (f"{at}ln_1.{kind}", width))
                self.vector(i, f"mlp_norm.{kind}", (f"{at}ln_2.{kind}", width))
            self.conv1d(i, "qkv", at + "attn.c_attn", width, 3 * width)
            self.conv1d(i, "output", at + "attn.c_proj", width, width)
            self.conv1d(i, "up", at + "mlp.c_fc", width, spec.mlp_size)
            self.conv1d(i, "down", at + "mlp.c_proj", spec.mlp_size, width)
