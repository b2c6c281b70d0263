"""Networks without a head, whose attention looks in both directions: final vectors as of the
float64 network, the same bits in any company, and no logits."""

from dataclasses import replace

import numpy as np
import pytest

from shoal.kernels.native import Dtype, NativeModel, available, kernel_sets
from shoal.model.spec import DecoderSpec, LayerSpec, MlpSpec
from tests.kernels.building import (
    LAYER_NORM,
    attention,
    bf16_weights,
    error,
    llama,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import Driver

pytest.importorskip("torch")
from tests.kernels.reference import wanted_logits

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")

_ATTENTION = attention(3, 3, 20, rotary=None, qkv_bias=True, output_bias=True, causal=False)
_LAYER = LayerSpec(
    _ATTENTION,
    MlpSpec(131, "gelu", gated=False, bias=True),
    attention_norm=None,
    mlp_norm=None,
    attention_post_norm=LAYER_NORM,
    mlp_post_norm=LAYER_NORM,
    post_norm_of="sum",
)
BERT = llama(
    hidden_size=60,
    layers=(_LAYER, _LAYER),
    final_norm=None,
    embedding_norm=LAYER_NORM,
    learned_positions=True,
    num_token_types=2,
    has_head=False,
)
LOCAL = llama(attention(6, 2, 16, causal=False, window=7), has_head=False)
"""As ModernBERT: rotary positions, norms before each branch, a window in both directions."""
SPECS = {"bert": BERT, "local": LOCAL}


def vectors(model: NativeModel, rows: list[tuple[int, list[int]]]) -> list[np.ndarray]:
    """Final vectors [n, hidden_size] of whole sequences in one step."""
    *arrays, every = Driver(model).arrays(rows)
    found = model.forward_head(*arrays, every[:0], hidden_indices=every).hidden
    assert found is not None
    return np.split(found, np.cumsum([len(ids) for _, ids in rows])[:-1])


def alone(model: NativeModel, token_ids: list[int]) -> np.ndarray:
    return vectors(model, [(0, token_ids)])[0]


@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("num_tokens", [1, 2, 15, 75])
@pytest.mark.parametrize("name", SPECS)
def test_final_vectors_are_those_of_the_float64_network(
    name: str, num_tokens: int, kernel_set: str
) -> None:
    spec = SPECS[name]
    model = make_model(spec, make_weights(spec), kernel_set=kernel_set)
    found = alone(model, random_tokens(spec, num_tokens))
    assert error(found, wanted_logits(spec, num_tokens)) < 2e-5


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_what_integers_change_is_what_they_round(dtype: Dtype) -> None:
    found = alone(make_model(BERT, make_weights(BERT), dtype=dtype), random_tokens(BERT, 40))
    rounding, whole = (
        np.sqrt(np.square(found - wanted_logits(BERT, 40, arithmetic=kind)).mean())
        for kind in (dtype, "float64")
    )
    assert rounding < whole / 3
    assert whole < 0.3


@pytest.mark.parametrize("kernel_set", kernel_sets())
def test_bfloat16_weights_change_little(kernel_set: str) -> None:
    weights = bf16_weights(make_weights(BERT))
    model = make_model(BERT, weights, dtype="bfloat16", kernel_set=kernel_set)
    found = alone(model, random_tokens(BERT, 40))
    assert error(found, wanted_logits(BERT, 40, rounded=True)) < 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
@pytest.mark.parametrize("name", SPECS)
def test_a_sequence_has_the_same_bits_in_any_company(
    name: str, kernel_set: str, dtype: Dtype
) -> None:
    spec = SPECS[name]
    weights = make_weights(spec)
    weights = bf16_weights(weights) if dtype == "bfloat16" else weights
    one, two = (
        make_model(spec, weights, dtype=dtype, kernel_set=kernel_set, num_threads=n) for n in (1, 2)
    )
    prompts = [random_tokens(spec, 1 + 13 * i, seed=i) for i in range(6)]
    wanted = [alone(one, prompt) for prompt in prompts]
    for model in (one, two):
        for order in ([0, 1, 2, 3, 4, 5], [5, 3, 0, 4], [2, 1]):
            rows = [(i, prompts[i]) for i in order]
            for i, found in zip(order, vectors(model, rows), strict=True):
                np.testing.assert_array_equal(found, wanted[i])


def test_every_token_counts_for_every_other() -> None:
    model = make_model(BERT, make_weights(BERT))
    tokens = random_tokens(BERT, 40)
    before = alone(model, tokens)
    after = alone(model, [*tokens[:-1], (tokens[-1] + 1) % BERT.vocab_size])
    assert (np.abs(after - before).max(-1) > 1e-6).all()


def test_a_window_reaches_as_far_ahead_as_back() -> None:
    spec = llama(attention(6, 2, 16, causal=False, window=7), num_layers=1, has_head=False)
    model = make_model(spec, make_weights(spec))
    tokens = random_tokens(spec, 60)
    before = alone(model, tokens)
    after = alone(model, [*tokens[:30], (tokens[30] + 1) % spec.vocab_size, *tokens[31:]])
    assert np.flatnonzero((after != before).any(-1)).tolist() == list(range(24, 37))


def test_final_vectors_beside_logits_are_those_of_the_same_step() -> None:
    spec = llama()
    model = make_model(spec, make_weights(spec), num_threads=2)
    *arrays, every = Driver(model).arrays([(0, random_tokens(spec, 20)), (1, [4, 5, 6])])
    both = model.forward_head(*arrays, every[::2], num_logits=5, top=1, hidden_indices=every[1::3])
    whole = model.forward_head(*arrays, every, num_logits=len(every), hidden_indices=every)
    np.testing.assert_array_equal(np.array(both.logits), np.array(whole.logits)[::2][:5])
    np.testing.assert_array_equal(np.array(both.hidden), np.array(whole.hidden)[1::3])


def test_a_network_without_a_head_has_no_logits_and_needs_no_weights_of_one() -> None:
    model = make_model(BERT, make_weights(BERT))
    *arrays, every = Driver(model).arrays([(0, [1, 2, 3])])
    with pytest.raises(ValueError, match="the model has no head"):
        model.forward(*arrays, every)
    with pytest.raises(ValueError, match="hidden index outside the tokens"):
        model.forward_head(*arrays, every[:0], hidden_indices=every + 1)
    with_head: DecoderSpec = replace(BERT, has_head=True)
    headless = model.weight_bytes
    assert make_model(with_head, make_weights(with_head)).weight_bytes > headless
