"""What the library says of a spec, and the corners of its features."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from shoal.kernels import native
from shoal.kernels.native import Dtype, available, kernel_sets, supports
from shoal.model import spec as spec_module
from shoal.model.spec import (
    DecoderSpec,
    MlpSpec,
    Role,
    expected_weights,
)
from tests.kernels.building import (
    SPECS,
    Weights,
    bf16_weights,
    llama,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import Driver, logits_of

needs_library = pytest.mark.skipif(not available(), reason="native kernels are not built")


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_here_is_supported(name: str) -> None:
    assert supports(SPECS[name]) == []


def test_a_word_that_the_library_does_not_know_is_named_once() -> None:
    spec = llama(mlp=MlpSpec(136, "mish"))  # type: ignore[arg-type]
    assert supports(spec) == ["the activation mish"]
    if available():
        with pytest.raises(ValueError, match="native kernels lack the activation mish"):
            make_model(spec, {})


def test_a_field_that_the_library_does_not_execute_is_named_where_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(frozen=True, slots=True)
    class LaterSpec(DecoderSpec):
        later_multiplier: float = 1.0

    known = native._EXECUTED[DecoderSpec]
    monkeypatch.setitem(native._EXECUTED, LaterSpec, known)
    values = {field.name: getattr(llama(), field.name) for field in fields(DecoderSpec)}
    assert supports(LaterSpec(**values)) == []
    later = LaterSpec(**values, later_multiplier=0.2)
    assert supports(later) == ["later multiplier (LaterSpec)"]


def test_a_parallel_layer_has_no_norm_of_the_sum() -> None:
    layer = replace(llama().layers[0], parallel=True, post_norm_of="sum")
    assert supports(llama(layers=(layer,))) == ["norms of the sum in a parallel layer"]


def test_the_library_executes_every_field_that_a_spec_has() -> None:
    kinds = [
        kind
        for kind in vars(spec_module).values()
        if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__")
    ]
    assert set(kinds) == native._EXECUTED.keys()
    for kind in native._EXECUTED:
        assert {field.name for field in fields(kind)} == set(native._EXECUTED[kind].split())


@needs_library
@pytest.mark.parametrize("name", SPECS)
def test_every_weight_counts(name: str) -> None:
    """Halving any one of them changes the logits: none is read and dropped."""
    spec, weights = SPECS[name], make_weights(SPECS[name])
    tokens = random_tokens(spec, 20)
    before = logits_of(make_model(spec, weights), tokens)
    for role in expected_weights(spec):
        # A bias of the keys adds the same to all scores of a query, which softmax takes away.
        if role.name == "k.bias" and role.layer is not None:
            mixer = spec.layers[role.layer].attention
            if not (mixer.rotary or mixer.qk_norm):
                continue
        changed = weights | {role: weights[role] * np.float32(0.5)}
        assert not np.array_equal(logits_of(make_model(spec, changed), tokens), before), role


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_strided_weights_are_those_of_their_copies(dtype: Dtype) -> None:
    spec = SPECS["phi"]
    weights = make_weights(spec)
    weights = bf16_weights(weights) if dtype == "bfloat16" else weights
    strided: Weights = {}
    for role, weight in weights.items():
        if weight.ndim == 2:
            strided[role] = np.asfortranarray(weight)
        else:
            strided[role] = np.repeat(weight, 3)[::3]
        strided[role].flags.writeable = False
    tokens = random_tokens(spec, 30)
    found, wanted = (logits_of(make_model(spec, w, dtype=dtype), tokens)
                     for w in (strided, weights))  # fmt: skip
    np.testing.assert_array_equal(found, wanted)


@needs_library
def test_layers_that_turn_alike_share_a_table() -> None:
    """40 layers with the same frequencies cost the memory of one table."""
    import resource

    spec = llama(num_layers=40, max_position_embeddings=100_000, hidden_size=32)
    model = make_model(spec, make_weights(spec), max_tokens=64)
    inputs = Driver(model).arrays([(0, random_tokens(spec, 4))])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs[1][:] += 99_000  # positions
    model.forward(*inputs)
    table = 100_000 * 16 * 4 / 1024  # kilobytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * table


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
def test_padded_rows_of_the_vocabulary_are_never_best(kernel_set: str, dtype: Dtype) -> None:
    spec = SPECS["llama"]
    for num_ids in (1, 511, 512, 700, 1099):
        weights = make_weights(spec)
        weights[Role("head.weight")][num_ids:] *= 20  # they would be
        kept = bf16_weights(weights) if dtype == "bfloat16" else weights
        model = make_model(spec, kept, dtype=dtype, kernel_set=kernel_set, num_threads=2,
                           num_token_ids=num_ids)  # fmt: skip
        inputs = Driver(model).arrays([(i, random_tokens(spec, 7 + i, i)) for i in range(3)])
        logits = model.forward(*inputs)
        assert logits.shape[1] == spec.vocab_size
        best = logits[:, :num_ids].argmax(1)
        np.testing.assert_array_equal(model.forward_greedy(*inputs), best)
        top = min(4, num_ids)
        head = model.forward_head(*inputs, num_logits=2, top=top, log_sum_exp=True)
        np.testing.assert_array_equal(head.logits, logits[:2])
        order = np.argsort(-logits[:, :num_ids], axis=1, kind="stable")[:, :top]
        np.testing.assert_array_equal(head.top_ids, order)
        wide = logits.astype(np.float64)
        wanted = wide.max(1) + np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1))
        np.testing.assert_allclose(head.log_sum_exp, wanted, rtol=1e-6)


@needs_library
def test_more_best_ids_than_tokens_are_refused() -> None:
    spec = SPECS["llama"]
    model = make_model(spec, make_weights(spec), num_token_ids=5)
    inputs = Driver(model).arrays([(0, [1, 2])])
    with pytest.raises(ValueError, match="token ids"):
        model.forward_head(*inputs, top=6)
    with pytest.raises(ValueError, match="num_token_ids"):
        make_model(spec, make_weights(spec), num_token_ids=1101)


@needs_library
def test_heads_that_do_not_divide_are_refused() -> None:
    spec = llama(replace(SPECS["llama"].layers[0].attention, num_kv_heads=4))
    with pytest.raises(ValueError, match="multiple of num_kv_heads"):
        make_model(spec, make_weights(spec))
