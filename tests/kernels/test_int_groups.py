"""int4 and int8 in groups of 32: what is kept of weights and blocks, and what multiplied."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from shoal.kernels.native import Dtype, available, kernel_sets
from shoal.model.spec import DecoderSpec, MlpSpec, Role
from tests.kernels.building import attention, llama, make_model, make_weights, random_tokens
from tests.kernels.driving import logits_of
from tests.kernels.quantizing import (
    BLOCK_BYTES,
    dequantized,
    groups_of_32,
    int8_rows,
    int8_weights,
    random_blocks,
)

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")
if available():
    from shoal.kernels.linear import Format, kept, multiply

EXACT = {
    "int4": ["Q4_0", "Q4_1"],
    "int8": ["Q8_0", "Q5_0", "Q4_0"],
    "int8_min": ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"],
    "f32": list(BLOCK_BYTES),
}
FORMATS: tuple["Format", ...] = ("int4", "int8", "int8_min")


def randn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("weight_format", "kind"), [(form, kind) for form, kinds in EXACT.items() for kind in kinds]
)
def test_blocks_are_kept_exactly_where_the_format_has_room(
    weight_format: "Format", kind: str
) -> None:
    blocks = random_blocks(kind, 37, 512)
    found = kept((kind, blocks), 512, weight_format)
    np.testing.assert_array_equal(found, dequantized(kind, blocks))


@pytest.mark.parametrize(
    ("weight_format", "kind", "limit"),
    [("int4", "Q4_K", 5e-4), ("int8_min", "Q5_K", 5e-4), ("int8_min", "Q4_K", 5e-4),
     ("int8", "Q6_K", 8e-3), ("int8", "Q5_1", 8e-3), ("int4", "Q8_0", 0.1)],
)  # fmt: skip
def test_other_blocks_lose_little(weight_format: "Format", kind: str, limit: float) -> None:
    blocks = random_blocks(kind, 37, 512)
    wanted = dequantized(kind, blocks)
    found = kept((kind, blocks), 512, weight_format)
    assert 0 < np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean()) < limit


def test_blocks_with_strange_scales_are_kept_as_bf16() -> None:
    blocks = random_blocks("Q4_1", 5, 64)
    blocks[3, :2] = np.array([np.inf], np.float16).view(np.uint8)
    found = kept(("Q4_1", blocks), 64, "int4")
    wanted = dequantized("Q4_1", blocks)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
    rest = np.delete(found, 3, axis=0), np.delete(wanted, 3, axis=0)
    np.testing.assert_allclose(*rest, rtol=2**-8)


@pytest.mark.parametrize("cols", [32, 100, 7, 576])
def test_int8_rounds_to_the_nearest_of_127_steps(cols: int) -> None:
    weight = randn(35, cols)
    np.testing.assert_array_equal(kept(weight, cols, "int8"), int8_weights(weight))
    small = weight * np.float32(1e-4)  # scales below the normal range of float16
    assert np.abs(kept(small, cols, "int8") - small).max() < 2e-6


@pytest.mark.parametrize("cols", [32, 100, 7, 576])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_int4_is_never_worse_than_rounding_between_least_and_largest(
    cols: int, offset: float
) -> None:
    weight = randn(35, cols) + np.float32(offset)
    groups = groups_of_32(weight)
    if cols % 32:  # the zeros that fill a group up are no weights
        groups[:, -1, cols % 32 :] = groups[:, -1, cols % 32 - 1, None]
    least = groups.min(-1, keepdims=True).astype(np.float16).astype(np.float32)
    scale = ((groups.max(-1, keepdims=True) - groups.min(-1, keepdims=True)) / 15).astype(
        np.float16
    )
    plain = np.rint((groups - least) / scale).clip(0, 15) * scale + least
    plain = plain.reshape(35, -1)[:, :cols]
    found = kept(weight, cols, "int4")
    lost, plainly = (((x - weight) ** 2).mean() for x in (found, plain))
    assert 0 < lost <= plainly * (1 if cols % 32 == 0 else 1.05)
    if cols == 576:
        assert lost < 0.9 * plainly


@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e20, 1e-12])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_weights_beyond_float16_scales_are_kept_as_bf16(
    weight_format: "Format", weight: float
) -> None:
    weights = np.ones((3, 64), np.float32)
    weights[1] = weight
    found = kept(weights, 64, weight_format)
    np.testing.assert_allclose(found, weights, rtol=2**-8)


def quantized_inputs(
    weight_format: "Format", cols: int
) -> tuple[tuple[str, NDArray[np.uint8]] | NDArray[np.float32], NDArray[np.float32]]:
    """Weights to give and what the format keeps of them; blocks with extreme integers too."""
    if cols % 32 or weight_format == "int8":
        weight = randn(43, cols)
        return weight, kept(weight, cols, weight_format)
    kind = {"int4": "Q4_1", "int8_min": "Q8_0"}[weight_format]
    blocks = random_blocks(kind, 43, cols)
    return (kind, blocks), dequantized(kind, blocks)


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("cols", [32, 100, 7, 576, 2080, 4128])
@pytest.mark.parametrize("weight_format", FORMATS)
def test_products_are_those_of_the_kept_weights_and_rounded_rows(
    weight_format: "Format", cols: int, kernel_set: Any
) -> None:
    weight, values = quantized_inputs(weight_format, cols)
    x = randn(33, cols, seed=1)
    found = multiply(x, weight, weight_format, kernel_set)
    wanted = int8_rows(x) @ values.astype(np.float64).T
    scale = np.abs(int8_rows(x)) @ np.abs(values.astype(np.float64)).T
    assert (np.abs(found - wanted) / scale).max() < 1e-6


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("largest", [1.0, 300.0, 2e4, 1e30, 1e-25])
def test_one_large_input_costs_other_groups_little(largest: float, kernel_set: Any) -> None:
    """A group is rounded to 127 steps of its own largest and a 2^14th of the row's."""
    x = randn(5, 256)
    x[1:, 7] = largest
    x[4] *= np.float32(1e-6)
    rounded = multiply(x, np.eye(256, dtype=np.float32), "int8", kernel_set).astype(np.float64)
    step = np.abs(groups_of_32(x)).max(-1) + np.abs(x).max(-1, keepdims=True) / 2**14
    lost = np.abs(groups_of_32(rounded - x)).max(-1)
    assert (lost <= step / 254 * 1.001).all()
    assert lost.max() > 0


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("weight_format", ["int4", "int8", "int8_min"])
def test_the_largest_integers_do_not_overflow(weight_format: "Format", kernel_set: Any) -> None:
    kind = {"int4": "Q4_1", "int8": "Q8_0", "int8_min": "Q8_0"}[weight_format]
    one = np.array([1], np.float16).view(np.uint8)
    integers = np.full((16, 64), 255 if kind == "Q4_1" else 128, np.uint8)  # 15, or -128
    head = [one, one] if kind == "Q4_1" else [one]
    block = np.concatenate([*head, integers[0, : BLOCK_BYTES[kind][1] - 2 * len(head)]])
    blocks = np.tile(np.concatenate([block, block]), (16, 1))
    x = np.ones((5, 64), np.float32) * np.array([[1], [-1], [3], [0], [-7]], np.float32)
    found = multiply(x, (kind, blocks), weight_format, kernel_set)
    values = dequantized(kind, blocks)
    np.testing.assert_allclose(found, int8_rows(x) @ values.astype(np.float64).T, rtol=1e-6)


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_row_has_the_same_bits_in_every_number_of_rows(
    weight_format: "Format", kernel_set: Any
) -> None:
    for cols in (100, 4128):
        weight, _ = quantized_inputs(weight_format, cols)
        x = randn(96, cols, seed=1)
        whole = multiply(x, weight, weight_format, kernel_set)
        for rows in (1, 2, 3, 4, 5, 7, 9, 31):
            np.testing.assert_array_equal(
                multiply(x[-rows:], weight, weight_format, kernel_set), whole[-rows:]
            )


@pytest.mark.skipif(
    not {"avx2", "avx512"} <= set(kernel_sets()), reason="needs a machine with AVX-512"
)
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("cols", [100, 4128])
def test_kernel_sets_with_fma_give_the_same_bits(weight_format: "Format", cols: int) -> None:
    weight, _ = quantized_inputs(weight_format, cols)
    x = randn(33, cols, seed=1)
    wanted = multiply(x, weight, weight_format, "avx2")
    for kernel_set in set(kernel_sets()) - {"avx2", "portable"}:
        found = multiply(x, weight, weight_format, kernel_set)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_integer_sums_are_the_same_in_every_kernel_set(weight_format: "Format") -> None:
    """With powers of two as scales nothing rounds, so all bits must agree."""
    rng = np.random.default_rng(0)
    kind = "Q4_1" if weight_format == "int4" else "Q8_0"
    blocks = random_blocks(kind, 43, 320).reshape(43, 10, -1)
    head = np.array([0.5, 2][: 2 if kind == "Q4_1" else 1], np.float16).view(np.uint8)
    blocks[..., : len(head)] = head
    x = rng.integers(-127, 128, (33, 320)).astype(np.float32)
    x[:, ::32] = 127
    results = [
        multiply(x, (kind, blocks.reshape(43, -1)), weight_format, kernel_set)  # type: ignore[arg-type]
        for kernel_set in kernel_sets()
    ]
    wanted = x.astype(np.float64) @ dequantized(kind, blocks.reshape(43, -1)).T
    for found in results:
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-3)
    for found in results[1:]:
        np.testing.assert_allclose(found, results[0], rtol=3e-7, atol=1e-4)


SPEC = llama(attention(4, 2, 32), mlp=MlpSpec(512), hidden_size=256, tied_head=True)


def block_weights(kinds: dict[str, str], spec: DecoderSpec) -> tuple[dict[Role, Any], ...]:
    """Random weights with these roles as blocks, and the numbers they stand for."""
    stored: dict[Role, Any] = dict(make_weights(spec))
    numbers = dict(stored)
    for seed, (role, weight) in enumerate(make_weights(spec).items()):
        kind = kinds.get(role.name.partition(".")[0])
        if kind is None or weight.ndim < 2:
            continue
        blocks = random_blocks(kind, len(weight), weight.shape[1], seed)
        stored[role], numbers[role] = (kind, blocks), dequantized(kind, blocks)
    return stored, numbers


LINEAR = ("q", "k", "v", "output", "gate", "up", "down")
KINDS = {
    "Q4_1 and Q8_0": dict.fromkeys(LINEAR, "Q4_1") | {"embedding": "Q8_0"},
    "Q4_0": dict.fromkeys((*LINEAR, "embedding"), "Q4_0"),
    "Q5_1": dict.fromkeys((*LINEAR, "embedding"), "Q5_1"),
    "one matrix of several": {"q": "Q4_1", "k": "Q5_0", "v": "Q8_0", "gate": "Q4_0", "up": "Q5_1"},
}


def kl_and_agreement(found: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, float]:
    """Mean divergence, and how often the best id is the same where it is no matter of chance: the
    best logit leads by a tenth of the logits' deviation."""
    log_p, log_q = (x - np.logaddexp.reduce(x, -1, keepdims=True) for x in (wanted, found))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    second, best = np.sort(wanted, -1)[:, -2:].T
    leads = best - second > 0.1 * wanted.std()
    assert leads.sum() > 100
    agree = found.argmax(-1) == wanted.argmax(-1)
    return float(kl.mean()), float(agree[leads].mean())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_model_of_blocks_is_exact_in_float32_and_near_it_in_integers(
    name: str, tied: bool
) -> None:
    spec = replace(SPEC, tied_head=tied)
    stored, numbers = block_weights(KINDS[name], spec)
    tokens = random_tokens(spec, 200)
    exact = logits_of(make_model(spec, numbers), tokens)
    np.testing.assert_array_equal(logits_of(make_model(spec, stored), tokens), exact)
    model = make_model(spec, stored, dtype="blocks", num_threads=2)
    found = logits_of(model, tokens)
    kl, agreement = kl_and_agreement(found.astype(np.float64), exact.astype(np.float64))
    assert 0 < kl < 0.02
    assert agreement >= 0.98
    for chunk in (1, 7):
        np.testing.assert_array_equal(logits_of(model, tokens, chunk), found)


def test_blocks_take_the_memory_of_their_format() -> None:
    stored, numbers = block_weights(KINDS["Q4_1 and Q8_0"], SPEC)
    size = {role: w.size for role, w in numbers.items() if w.ndim == 2}
    table = size.pop(Role("embedding"))
    rows = -(-SPEC.vocab_size // 16) * 16 * table // SPEC.vocab_size
    model = make_model(SPEC, stored, dtype="blocks")
    assert model.weight_bytes == sum(size.values()) * 20 // 32 + rows * 34 // 32
    whole: tuple[Dtype, ...] = ("int4", "int8")
    for dtype in whole:  # blocks of 4 bits stay so
        assert make_model(SPEC, stored, dtype=dtype).weight_bytes == model.weight_bytes
    wide, _ = block_weights(dict.fromkeys(LINEAR, "Q8_0"), SPEC)
    small = make_model(SPEC, wide, dtype="int4")
    assert small.weight_bytes == model.weight_bytes


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((256, 161), np.uint8), "bytes of whole blocks"),
        (np.zeros((256, 320), np.uint8), "does not fit the model"),
        (np.zeros((255, 160), np.uint8), "does not fit the model"),
        (np.zeros((256, 160), np.int8), "uint8"),
        (np.zeros((256, 320), np.uint8)[:, ::2], "side by side|bytes of whole blocks"),
    ],
)
def test_blocks_of_another_shape_are_refused(array: NDArray[Any], message: str) -> None:
    stored, _ = block_weights(KINDS["Q4_1 and Q8_0"], SPEC)
    with pytest.raises(ValueError, match=message):
        make_model(SPEC, stored | {Role("output.weight", 0): ("Q4_1", array)}, dtype="blocks")
    with pytest.raises(ValueError, match="no kind of block is called IQ2_XS"):
        make_model(SPEC, stored | {Role("output.weight", 0): ("IQ2_XS", array)}, dtype="blocks")
