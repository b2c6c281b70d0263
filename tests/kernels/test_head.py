"""What the head reports without writing logits agrees with the logits, and bad input is refused."""

from dataclasses import replace

import numpy as np
import pytest

from shoal.kernels.native import Dtype, available, kernel_sets
from shoal.model.spec import Role
from tests.kernels.building import (
    SPECS,
    bf16_weights,
    make_model,
    make_weights,
    random_tokens,
)
from tests.kernels.driving import Driver, logits_of

pytestmark = pytest.mark.skipif(not available(), reason="native kernels are not built")
SPEC = SPECS["llama"]
WEIGHTS = make_weights(SPEC)


def head_inputs(model: object, rows: int) -> tuple[np.ndarray, ...]:
    """A prefill of `rows` prompts; logits of every third token."""
    prompts = [(i, random_tokens(SPEC, 9 + i, seed=i)) for i in range(rows)]
    arrays = Driver(model).arrays(prompts)
    return (*arrays[:-1], arrays[-1][::3].copy())


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("kernel_set", kernel_sets())
def test_the_head_reports_what_the_logits_say(
    kernel_set: str, dtype: Dtype, num_threads: int
) -> None:
    weights = bf16_weights(WEIGHTS) if dtype == "bfloat16" else WEIGHTS
    model = make_model(SPEC, weights, dtype=dtype, kernel_set=kernel_set, num_threads=num_threads)
    inputs = head_inputs(model, 25)
    logits = model.forward(*inputs)
    rows = len(logits)
    assert rows > 100  # more than one block of rows in the head
    targets = np.array(random_tokens(SPEC, rows), np.int32)
    found = model.forward_head(
        *inputs,
        num_logits=5,
        top=20,
        log_sum_exp=True,
        target_ids=targets,
        hidden_indices=inputs[-1],
    )
    order = np.lexsort((np.broadcast_to(np.arange(SPEC.vocab_size), logits.shape), -logits))[:, :20]
    np.testing.assert_array_equal(found.logits, logits[:5])
    np.testing.assert_array_equal(found.top_ids, order)
    np.testing.assert_array_equal(found.top_logits, np.take_along_axis(logits, order, 1))
    np.testing.assert_array_equal(found.target_logits, logits[np.arange(rows), targets])
    np.testing.assert_array_equal(model.forward_greedy(*inputs), logits.argmax(1))
    wide = logits.astype(np.float64)
    wanted = wide.max(1) + np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1))
    np.testing.assert_allclose(found.log_sum_exp, wanted, rtol=1e-6)
    if dtype == "float32":
        product = found.hidden.astype(np.float64) @ WEIGHTS[Role("head.weight")].T.astype(
            np.float64
        )
        np.testing.assert_allclose(product, logits, atol=1e-4)


def test_of_equal_logits_the_lower_id_comes_first() -> None:
    weights = dict(WEIGHTS)
    weights[Role("head.weight")] = np.repeat(WEIGHTS[Role("head.weight")][:10], 110, axis=0)
    model = make_model(SPEC, weights, num_threads=2)
    inputs = head_inputs(model, 4)
    best = model.forward_greedy(*inputs)
    top = model.forward_head(*inputs, top=3).top_ids
    assert (best % 110 == 0).all()
    np.testing.assert_array_equal(top, best[:, None] + np.arange(3))


def test_log_sum_exp_of_a_row_does_not_depend_on_its_company() -> None:
    model = make_model(SPEC, WEIGHTS, num_threads=2)
    prompts = [(i, random_tokens(SPEC, 12, seed=i)) for i in range(11)]
    together = model.forward_head(*Driver(model).arrays(prompts), log_sum_exp=True).log_sum_exp
    for i, prompt in prompts:
        alone = model.forward_head(*Driver(model).arrays([(0, prompt)]), log_sum_exp=True)
        np.testing.assert_array_equal(alone.log_sum_exp, together[12 * i : 12 * i + 12])


def test_a_step_may_ask_for_no_logits() -> None:
    model = make_model(SPEC, WEIGHTS)
    driver = Driver(model)
    prompt = random_tokens(SPEC, 30)
    inputs = list(driver.arrays([(0, prompt[:20])]))
    inputs[-1] = inputs[-1][:0]
    assert model.forward(*inputs).shape == (0, SPEC.vocab_size)
    found = driver.step([(0, prompt[20:])])
    np.testing.assert_array_equal(found, logits_of(make_model(SPEC, WEIGHTS), prompt)[20:])


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (0, SPEC.vocab_size, "vocabulary"),
        (0, -1, "vocabulary"),
        (1, SPEC.max_position_embeddings, "position"),
        (2, 256 * 16, "slot"),
        (3, 1, "row_starts"),
        (4, 1000, "block table"),
        (4, 3, "context"),
        (5, 256, "block id"),
        (6, 99, "logit index"),
    ],
)
def test_inputs_outside_their_range_are_refused(index: int, value: int, message: str) -> None:
    model = make_model(SPEC, WEIGHTS)
    inputs = Driver(model).arrays([(0, random_tokens(SPEC, 8))])
    inputs[index].flat[0] = value
    with pytest.raises(ValueError, match=message):
        model.forward(*inputs)


def test_a_missing_weight_and_a_wrong_shape_are_named() -> None:
    name = Role("up.weight", 1)
    with pytest.raises(ValueError, match=f"{name} is missing"):
        make_model(SPEC, {k: v for k, v in WEIGHTS.items() if k != name})
    with pytest.raises(ValueError, match=rf"{name} is \(3, 2\), the model needs \(136, 96\)"):
        make_model(SPEC, WEIGHTS | {name: np.zeros((3, 2), np.float32)})


def test_an_unknown_kernel_set_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot run that kernel set"):
        make_model(SPEC, WEIGHTS, kernel_set="avx1024")


def test_half_precision_weights_are_read_like_their_float32_values() -> None:
    half = {k: v.astype(np.float16) for k, v in WEIGHTS.items()}
    full = {k: v.astype(np.float32) for k, v in half.items()}
    found, wanted = (
        Driver(make_model(SPEC, w)).step([(0, random_tokens(SPEC, 9))]) for w in (half, full)
    )
    np.testing.assert_array_equal(found, wanted)


def test_kv_blocks_cost_no_memory_before_they_are_used() -> None:
    import resource

    spec = replace(SPEC, layers=SPEC.layers[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = make_model(spec, make_weights(spec), num_blocks=200_000)
    assert model.block_bytes * model.num_blocks > 700e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
