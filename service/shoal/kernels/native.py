"""Python side of the native CPU kernels: a model step is one call. numpy only, never torch.

The library executes a `DecoderSpec`; weights come by role. A weight is float32, float16, or uint16
that holds the bits of bfloat16, in any strides; or a name of ggml's quantized blocks (Q4_0, Q4_1,
Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K) with uint8 rows of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shoal.model.spec import (
    AttentionSpec,
    DecoderSpec,
    EmbeddingSpec,
    ExpertsSpec,
    LayerSpec,
    MlpSpec,
    NormSpec,
    QKNormSpec,
    Role,
    RotarySpec,
    ShortConvSpec,
    expected_weights,
)

try:
    from shoal.kernels import _native
except ImportError as error:  # installed without a compiler: callers ask available() first
    _BUILT, _WHY_NOT = False, str(error)
else:
    _BUILT, _WHY_NOT = True, ""

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Weight = NDArray[Any] | tuple[str, NDArray[np.uint8]]
"""Numbers [out, in], or the kind of quantized blocks and rows of them [out, bytes]."""
KVDtype = Literal["auto", "int8"]
Dtype = Literal["float32", "bfloat16", "int8", "int4", "blocks"]
"""How weights are kept. int8 and int4: integers in groups of 32 with scales in float16; with int4
embedding and head are int8, and blocks of 4 bits stay so under int8. blocks: quantized blocks in
the format that holds them, other weights as they are. Of blocks, Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0
are kept exactly, of Q4_K and Q5_K the scales and mins are rounded to float16 (2^-11), and Q6_K
(whose groups are 16) becomes int8. float32 is exact for all of them."""
KernelSet = Literal["auto", "portable", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16"]

AdaptedLinears = list[tuple[int, Float32, list[tuple[str, int, Float32]]]]
"""An adapter by linear layers: (layer, A [inner, in], [(role, i, B [out, rank])]). Matrices of one
input share A; B, the scale included, reads `rank` inner values from i on, which is even."""

BLOCK_SIZE = 16
"""Tokens per KV block."""
_WEIGHT_DTYPES = (np.float32, np.float16, np.uint16)

_EXECUTED: dict[type, str] = {
    DecoderSpec: "vocab_size hidden_size max_position_embeddings layers final_norm tied_head "
    "head_bias learned_positions embedding_multiplier embedding_norm embedding_size "
    "logit_multiplier logit_soft_cap has_head num_token_types embedding",
    LayerSpec: "mixer mlp attention_norm mlp_norm attention_post_norm mlp_post_norm post_norm_of "
    "parallel residual_multiplier",
    ShortConvSpec: "kernel_size bias",
    AttentionSpec: "num_heads num_kv_heads head_dim scale qkv_bias output_bias rotary qk_norm "
    "window soft_cap alibi_slopes clip_qkv clip_after_norm causal",
    QKNormSpec: "norm over weight_per_head after_rotary",
    RotarySpec: "inv_freq magnitude interleaved",
    MlpSpec: "intermediate_size activation gated bias experts",
    ExpertsSpec: "num_experts num_experts_per_token normalized shared_intermediate_size "
    "shared_gate",
    NormSpec: "kind eps bias weight_offset has_weight",
    EmbeddingSpec: "pooling normalized",  # by the runner, of the final vectors
}
"""The fields of a spec that the library executes. Whatever else a spec may hold must stand at its
default, which means that the feature is not used."""
_WORDS = {
    (MlpSpec, "activation"): ("silu", "gelu", "gelu_tanh", "relu", "relu2"),
    (NormSpec, "kind"): ("rms", "layer"),
    (QKNormSpec, "over"): ("head", "all"),
    (LayerSpec, "post_norm_of"): ("branch", "sum"),
}
"""What the library knows of fields that are a choice of words."""


def available() -> bool:
    """Whether the library was built for this Python."""
    return _BUILT


def why_not_available() -> str:
    """What Python said when it did not find or could not load the library; "" if it did."""
    return _WHY_NOT


def kernel_sets() -> list[str]:
    """The sets this machine can run, best first; empty without the library."""
    return _native.kernel_sets() if _BUILT else []


def supports(spec: DecoderSpec) -> list[str]:
    """The features of the spec that the library lacks, each in words that fit "native kernels
    lack ..."; empty when it runs the spec."""
    return list(dict.fromkeys(_missing(spec)))


def _missing(spec: Any) -> Iterator[str]:
    kind = type(spec)
    if kind not in _EXECUTED:
        yield kind.__name__
        return
    if isinstance(spec, LayerSpec) and spec.parallel and spec.post_norm_of == "sum":
        yield "norms of the sum in a parallel layer"
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.name not in _EXECUTED[kind].split():
            if value != field.default:
                yield f"{field.name.replace('_', ' ')} ({kind.__name__})"
        elif (kind, field.name) in _WORDS:
            if value not in _WORDS[kind, field.name]:
                yield f"the {field.name} {value}"
        else:
            for part in value if isinstance(value, tuple) else (value,):
                if is_dataclass(part):
                    yield from _missing(part)


@dataclass(frozen=True, slots=True)
class HeadResult:
    """What the head found for L rows: those of the logit indices, then with a lens those of its
    tokens, first all after the first layer. None for what was not requested."""

    logits: Float32 | None
    """[first rows that requested them, vocab_size]"""
    top_ids: Int32 | None
    """[L, k], best first; of equal logits the lower id. Only ids below num_token_ids."""
    top_logits: Float32 | None
    """[L, k]"""
    log_sum_exp: Float32 | None
    """[L], or with a lens of its rows only, over the whole vocabulary; a logit minus this is its
    log-probability."""
    target_logits: Float32 | None
    """[L]: logit of the target id."""
    hidden: Float32 | None
    """[H, hidden_size], after the last norm, of the H hidden indices."""


class NativeModel:
    """Weights, KV cache and thread pool of one model.

    A row's results depend on its own tokens alone, bit for bit: not on the other rows, the chunk
    size, the number of threads. Raises ValueError for weights or inputs that do not fit. A step
    releases the GIL; one caller at a time.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Mapping[Role, Weight],
        *,
        dtype: Dtype,
        num_blocks: int,
        max_tokens: int,
        num_threads: int,
        num_token_ids: int | None = None,
        kernel_set: KernelSet = "auto",
        spin_us: int = 50,
        cache_bytes: int | None = None,
        kv_dtype: KVDtype = "auto",
        on_packed: Callable[[Role], None] = lambda role: None,
    ) -> None:
        """`weights`: every role of `expected_weights(spec)`, as an array of its shape.
        `max_tokens`: most tokens of one step. `num_token_ids`: rows of the embedding that are
        tokens, the others are padding; None = all. `cache_bytes`: of the last-level cache; bf16
        weights that it does not hold are packed tighter where the kernel set can; None asks the
        machine. `kv_dtype`: auto keeps keys and values as float32 beside float32 weights, else as
        bfloat16; int8 keeps each token's key and value of a KV head as integers with a float32
        scale each. `on_packed` is told each role whose weight has been copied. Raises ValueError
        for a spec with features that `supports` names."""
        if not _BUILT:
            raise RuntimeError("the native kernels are not built; available() says so beforehand")
        for name, value in (("num_blocks", num_blocks), ("max_tokens", max_tokens),
                            ("num_threads", num_threads)):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if missing := supports(spec):
            raise ValueError(f"native kernels lack {', '.join(missing)}")
        self.spec = spec
        self.dtype: Dtype = dtype
        self.num_blocks = num_blocks
        self.max_tokens = max_tokens
        self.num_token_ids = spec.vocab_size if num_token_ids is None else num_token_ids
        self._model = _native.make_model(
            spec, self.num_token_ids, dtype, kernel_set, num_blocks, max_tokens, num_threads,
            spin_us, cache_bytes, kv_dtype == "int8",
        )  # fmt: skip
        checked = {
            role: _checked(weights, role, shape) for role, shape in expected_weights(spec).items()
        }
        for (name, layer), (array, blocks) in checked.items():
            self._model.propose_format(-1 if layer is None else layer, name, array, blocks)
        for role, (array, blocks) in checked.items():
            layer = -1 if role.layer is None else role.layer
            self._model.set_weight(layer, role.name, array, blocks)
            on_packed(role)

    @property
    def kernel_set(self) -> str:
        """The instruction set that runs: portable, avx2, avxvnni, avx512, avx512vnni or
        avx512bf16."""
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
        *,
        adapter_ids: Int32 | None = None,
    ) -> Float32:
        """Computes T tokens of R rows, writes their keys and values; float32 logits
        [L, vocab_size].

        `slots` [T] are where each token's keys and values go; the tokens of a row are the last
        ones of its `context_lens[r]`. Two rows may share blocks that no row of this step writes.
        `adapter_ids` [R] are the adapters of the rows, 0 = none; None = no row has one.
        """
        if out is None:
            out = np.empty((len(logit_indices), self.spec.vocab_size), np.float32)
        self._model.step(
            token_ids, positions, slots, row_starts, context_lens, block_tables, logit_indices,
            out, None, None, None, None, None, None, adapter_ids, None, None,
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
        *,
        adapter_ids: Int32 | None = None,
    ) -> Int32:
        """The same step, but only the best id of each row [L]; no logits are written anywhere."""
        ids = np.empty((len(logit_indices), 1), np.int32)
        self._model.step(
            token_ids, positions, slots, row_starts, context_lens, block_tables, logit_indices,
            None, ids, None, None, None, None, None, adapter_ids, None, None,
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
        hidden_indices: Int32 | None = None,
        adapter_ids: Int32 | None = None,
        lens_indices: Int32 | None = None,
    ) -> HeadResult:
        """The same step with several requests served by one pass over the head's weights.

        The first `num_logits` rows get full logits, every row gets the `top` best ids and logits,
        the log-sum-exp and the logit of its target id, each if requested. `hidden_indices` [H]:
        tokens whose residual behind the last norm is wanted; a model without a head gives these
        only.
        `lens_indices`: tokens whose residual also passes the head as each layer leaves it (the
        logit lens, nostalgebraist, 2020); the log-sum-exp is then of these rows only.
        """
        num_lens_rows = 0 if lens_indices is None else len(lens_indices) * len(self.spec.layers)
        rows, vocab_size = len(logit_indices) + num_lens_rows, self.spec.vocab_size
        if num_logits > rows or top > self.num_token_ids:
            raise ValueError("num_logits exceeds the rows or top exceeds the token ids")
        result = HeadResult(
            logits=np.empty((num_logits, vocab_size), np.float32) if num_logits else None,
            top_ids=np.empty((rows, top), np.int32) if top else None,
            top_logits=np.empty((rows, top), np.float32) if top else None,
            log_sum_exp=np.empty(num_lens_rows or rows, np.float32) if log_sum_exp else None,
            target_logits=np.empty(rows, np.float32) if target_ids is not None else None,
            hidden=(
                np.empty((len(hidden_indices), self.spec.hidden_size), np.float32)
                if hidden_indices is not None
                else None
            ),
        )
        self._model.step(
            token_ids, positions, slots, row_starts, context_lens, block_tables, logit_indices,
            result.logits, result.top_ids, result.top_logits, result.log_sum_exp, target_ids,
            result.target_logits, result.hidden, adapter_ids, lens_indices, hidden_indices,
        )  # fmt: skip
        return result

    def load_adapter(self, adapter_id: int, linears: AdaptedLinears) -> None:
        """Rows may have it from now on. Its matrices are kept as float32 with float32 weights,
        else as bf16. Raises ValueError for matrices that do not fit, or an id that is taken."""
        self._model.load_adapter(adapter_id, linears)

    def unload_adapter(self, adapter_id: int) -> None:
        """Unknown ids are ignored."""
        self._model.unload_adapter(adapter_id)

    def copy_block(self, source: int, target: int) -> None:
        """Copies the keys and values of one block to another, in all layers."""
        self._model.copy_block(source, target)

    def release_blocks(self, block_ids: Iterable[int]) -> None:
        """Gives the memory of these blocks back to the system; their content is lost, and the next
        write takes memory again."""
        for block_id in block_ids:
            self._model.release_block(block_id)


def _checked(
    weights: Mapping[Role, Weight], role: Role, shape: tuple[int, ...]
) -> tuple[NDArray[Any], str | None]:
    if role not in weights:
        raise ValueError(f"weight {role} is missing")
    weight = weights[role]
    if isinstance(weight, tuple):  # the library knows how many numbers are in a block
        blocks, rows = weight
        return rows, blocks
    if weight.shape != shape:
        raise ValueError(f"weight {role} is {weight.shape}, the model needs {shape}")
    if weight.dtype not in _WEIGHT_DTYPES:
        raise ValueError(f"weight {role} is {weight.dtype}, not float32, float16 or bf16 bits")
    return weight, None
