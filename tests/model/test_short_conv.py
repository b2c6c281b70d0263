"""LFM2: how a config is read, and convolutions whose state is exact wherever a sequence goes on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.checkpoint.files import StoredTensor
from shoal.engine.kv_blocks import KVBlocks
from shoal.errors import ModelFolderError
from shoal.kernels import native
from shoal.model.registry import read_model
from shoal.model.spec import DecoderSpec, Role, ShortConvSpec, expected_weights
from shoal.runner.inputs import StepInputs
from tests.fakes.tiny_models import CONFIGS, TINY_LFM2, random_weights
from tests.kernels.building import SPECS, make_model, make_weights
from tests.model import test_identity_matrix as matrix

FILE = "tiny/config.json"
LFM2_350M: dict[str, Any] = {
    "architectures": ["Lfm2ForCausalLM"],
    "block_auto_adjust_ff_dim": True,
    "block_dim": 1024,
    "block_ff_dim": 6656,
    "block_ffn_dim_multiplier": 1.0,
    "block_mlp_init_scale": 1.0,
    "block_multiple_of": 256,
    "block_norm_eps": 1e-05,
    "block_use_swiglu": True,
    "conv_L_cache": 3,
    "conv_bias": False,
    "conv_dim": 1024,
    "conv_dim_out": 1024,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 1024,
    "max_position_embeddings": 128000,
    "model_type": "lfm2",
    "norm_eps": 1e-05,
    "num_attention_heads": 16,
    "num_heads": 16,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "use_pos_enc": True,
    "vocab_size": 65536,
}


def lfm2(**changes: Any) -> DecoderSpec:
    """A change to ... takes the key out."""
    config = {key: value for key, value in (TINY_LFM2 | changes).items() if value is not ...}
    return read_model(config, FILE).spec


def test_a_published_config_is_read_as_the_network_it_describes() -> None:
    spec = read_model(LFM2_350M, FILE).spec
    attending = [index for index, layer in enumerate(spec.layers) if layer.attends]
    assert attending == LFM2_350M["full_attn_idxs"]
    assert {layer.mixer for layer in spec.layers if not layer.attends} == {ShortConvSpec(3)}
    assert spec.layers[0].mlp.intermediate_size == 4608
    assert spec.tied_head
    assert sum(int(np.prod(shape)) for shape in expected_weights(spec).values()) == 354_483_968
    # Six layers with 8 heads of 64, ten with two values of 1024 channels.
    assert spec.kv_numbers_per_token == 6 * 2 * 512
    assert spec.state_bytes_per_block(16) == 10 * 2 * 1024 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv_L_cache": 1}, "conv_L_cache must be at least 2"),
        ({"conv_bias": 1}, "conv_bias must be true or false"),
        ({"full_attn_idxs": 2}, "full_attn_idxs must be a list of layers"),
        ({"full_attn_idxs": [True]}, "full_attn_idxs must be a list of layers"),
        ({"layer_types": ["conv", "conv", "conv"]}, "full_attn_idxs must agree with layer_types"),
        ({"layer_types": ["conv", "full_attention"]}, "layer_types must name every layer"),
        ({"layer_types": ["conv", "mamba", "conv"]}, "layer_types must hold"),
        ({"conv_dim": 32}, "conv_dim must be left out or equal hidden_size"),
        ({"use_pos_enc": False}, "use_pos_enc must be true"),
        ({"num_key_value_heads": 4}, "num_key_value_heads must divide the heads"),
        ({"hidden_act": "gelu"}, "hidden_act must be left out"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps must be left out"),
    ],
    ids=str,
)
def test_what_the_network_does_not_have_is_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFolderError, match=message):
        lfm2(**changes)


@pytest.mark.parametrize("key", ["conv_L_cache", "block_ff_dim", "full_attn_idxs", "norm_eps"])
def test_other_families_refuse_its_keys(key: str) -> None:
    with pytest.raises(ModelFolderError, match=f"{key} must be left out"):
        read_model(CONFIGS["llama"] | {key: 3}, FILE)


def test_layers_are_named_either_way() -> None:
    kinds = ["conv", "full_attention", "conv"]
    assert lfm2(layer_types=kinds) == lfm2(layer_types=kinds, full_attn_idxs=...) == lfm2()
    assert all(layer.attends for layer in lfm2(full_attn_idxs=...).layers)


def test_the_state_of_a_block_is_part_of_its_bytes() -> None:
    spec = lfm2(conv_L_cache=4)
    assert spec.state_bytes_per_block(16) == 2 * 3 * spec.hidden_size * 4
    longest = lfm2(conv_L_cache=40)  # a block has no more values than tokens
    assert longest.state_bytes_per_block(16) == 2 * 16 * spec.hidden_size * 4


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
def test_the_native_blocks_are_as_large_as_they_are_counted() -> None:
    spec = SPECS["lfm2"]
    model = make_model(spec, make_weights(spec))
    keys_and_values = spec.kv_numbers_per_token * 16 * 4
    assert model.block_bytes == keys_and_values + spec.state_bytes_per_block(16)


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
@pytest.mark.parametrize("model", ["lfm2", "lfm2_kernel_beyond_a_block"])
@pytest.mark.parametrize("dtype", matrix.DTYPES)
def test_answers_are_the_same_bits_with_a_prefix_cache_too_small_and_preemptions(
    model: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_hits = 0
    admit = KVBlocks.admit

    def count_hits(self: KVBlocks, seq: Any, prefix: Any, num_reserved: int) -> bool:
        nonlocal num_hits
        is_admitted = admit(self, seq, prefix, num_reserved)
        num_hits += len(prefix) if is_admitted else 0
        return is_admitted

    monkeypatch.setattr(KVBlocks, "admit", count_hits)
    serving = matrix.Serving("preempted", num_blocks=13, warm=True, budget=11, shuffled=True)
    requests = matrix.make_requests(24)
    engine = matrix.Engine(model, dtype, serving)
    found = [engine.serve(requests, first_id=24 * turn) for turn in range(3)]
    wanted = matrix.alone(model, dtype, 24)
    assert found == [wanted] * 3
    assert engine.core.stats()[0].num_preemptions > 0
    assert num_hits > 5


def integer_conv(kernel_size: int, hidden: int) -> dict[Role, StoredTensor]:
    """Small whole numbers, whose sums and products are exact in any order."""
    rng = np.random.default_rng(kernel_size)
    shapes = {
        "conv_in.weight": (3 * hidden, hidden),
        "conv_out.weight": (hidden, hidden),
        "conv.weight": (hidden, kernel_size),
        "conv.bias": (hidden,),
    }
    arrays = {name: rng.integers(-1, 2, shape) for name, shape in shapes.items()}
    return {
        Role(name, 0): StoredTensor("F32", array.astype(np.float32), "made up")
        for name, array in arrays.items()
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pytorch_gives_every_token_of_any_chunks_the_convolution_of_its_sequence(
    data: Any,
) -> None:
    torch = pytest.importorskip("torch")
    from shoal.model.torch.layers import TorchWeights
    from shoal.model.torch.short_conv import ConvLayer, ShortConv
    from shoal.runner.backends.torch_conv import conv_batch

    hidden, block_size, num_blocks = 5, 4, 40
    spec = ShortConvSpec(data.draw(st.integers(2, 9), "kernel"), bias=True)
    conv = ShortConv(
        spec, TorchWeights(integer_conv(spec.kernel_size, hidden), torch.float32, "cpu"), 0
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    cache = ConvLayer(num_blocks * spec.values_per_block(block_size), hidden, "cpu")
    cache.values.fill_(torch.nan)  # what others left there reaches nobody
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=4), "lengths")
    inputs = [torch.from_numpy(rng.integers(-2, 3, (n, hidden))).float() for n in lengths]
    tables = rng.permutation(num_blocks)[:32].reshape(4, 8).astype(np.int32)
    wanted: list[Any] = []
    for u in inputs:
        b, c, x = conv._in(u).chunk(3, -1)
        padded = torch.nn.functional.pad((b * x).T, (spec.kernel_size - 1, 0))
        y = torch.nn.functional.conv1d(padded, conv._taps[:, None], conv._bias, groups=hidden)
        wanted.append(conv._out(c * y.T))
    computed = [0] * len(inputs)
    while left := [i for i, n in enumerate(lengths) if computed[i] < n]:
        rows = data.draw(st.permutations(left), "order")
        rows = rows[: data.draw(st.integers(1, len(rows)), "rows")]
        counts = [data.draw(st.integers(1, lengths[i] - computed[i]), "count") for i in rows]
        spans = [range(computed[i], computed[i] + n) for i, n in zip(rows, counts, strict=True)]
        slots = [
            tables[i, p // block_size] * block_size + p % block_size
            for i, span in zip(rows, spans, strict=True)
            for p in span
        ]
        positions = np.array([p for span in spans for p in span], np.int32)
        step = StepInputs(
            token_ids=positions,
            positions=positions,
            slots=np.array(slots, np.int32),
            row_starts=np.cumsum([0, *counts]).astype(np.int32),
            context_lens=np.array([span.stop for span in spans], np.int32),
            block_tables=tables[rows],
            logit_indices=np.empty(0, np.int32),
        )
        batches = {spec.kernel_size: conv_batch(step, spec, block_size, "cpu")}
        parts = [inputs[i][span.start : span.stop] for i, span in zip(rows, spans, strict=True)]
        found = conv(torch.cat(parts), batches, cache).split(counts)
        for i, span, part in zip(rows, spans, found, strict=True):
            assert torch.equal(part, wanted[i][span.start : span.stop])
            computed[i] = span.stop


def test_a_depthwise_tensor_of_another_shape_is_refused_by_name(tmp_path: Path) -> None:
    from shoal.model.weights import load_weights

    architecture, spec, _ = read_model(TINY_LFM2, FILE)
    arrays = random_weights(TINY_LFM2)
    name = "model.layers.0.conv.conv.weight"
    assert arrays[name].shape == (48, 1, 3)
    arrays[name] = arrays[name][:, 0]
    stored = {key: StoredTensor("F32", array, "f") for key, array in arrays.items()}
    with pytest.raises(ModelFolderError, match=r"conv\.conv\.weight \[48, 3\] instead of \[48, 1,"):
        load_weights(spec, architecture, stored, "tiny")
