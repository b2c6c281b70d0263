"""What makes training cheap changes neither loss nor gradient: packing, shared beginnings,
checkpointing, chunks of logits, low-rank products; and bfloat16 only by its rounding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from shoal.model.spec import Role
from shoal.train.config import RecipeError
from shoal.train.finetune import attention, loss
from shoal.train.finetune.lora import LowRank, make_lora
from shoal.train.finetune.network import TrainableNetwork
from shoal.train.finetune.pack import make_packs
from tests.fakes.tiny_models import write_tiny_model
from tests.model.cases import write_case
from tests.model.driving import reference_model
from tests.train.finetune.rows import (
    assert_close,
    load,
    make_network,
    one_pack,
    random_rows,
    reference_nats,
)

SHAPES = [(60, 35), (33, 30), (47, 28), (80, 40), (26, 25)]
FAMILIES = ["llama", "gemma2", "mpt", "lfm2", "qwen2_moe", "phi", "gpt2"]
"""Windows, caps, linear biases, convolutions, experts, parallel branches, learned positions."""


def stored(product: LowRank) -> tuple[Tensor, Tensor]:
    """a and b with its rows as the base's file has the module's outputs."""
    rank, groups = product.b.shape[1], product.module.num_groups
    parts = [part.view(groups, -1, rank) for part in product.b_by_role()]
    return product.a.detach(), torch.cat(parts, 1).reshape(-1, rank)


def by_module(network: TrainableNetwork) -> dict[str, tuple[Tensor, Tensor]]:
    return {low.module.name: stored(low) for low in (network._low_ranks or {}).values()}


def gradients(network: TrainableNetwork) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in network.parameters.items()
    }


def assert_same(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float
) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert_close(gradient, wanted[name], tolerance, name)


def give_products_values(network: TrainableNetwork) -> None:
    """B is zero at first, and then A has no gradient."""
    generator = torch.Generator().manual_seed(5)
    for name, leaf in network.parameters.items():
        if name.endswith("lora_B"):
            leaf.data.normal_(std=0.1, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_gives_the_loss_and_gradient_of_its_rows_one_by_one(
    family: str, tmp_path: Path
) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    rows = random_rows(SHAPES, prefix=22)
    packed, single = make_network(checkpoint), make_network(checkpoint)
    pack = one_pack(rows)
    assert len(pack.token_ids) == sum(len(row.ids) for row in rows) - 4 * 22
    nats = packed.backward(pack, 0.25)
    wanted = sum(single.backward(one_pack([row]), 0.25) for row in rows)
    assert nats == pytest.approx(wanted, rel=1e-5)
    assert_same(gradients(packed), gradients(single), 1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mpt", "gpt_neox"])
def test_shared_beginnings_are_exact(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    rows = random_rows(SHAPES, prefix=22)
    shared, apart = (make_network(checkpoint, dtype=torch.float64) for _ in range(2))
    nats = shared.backward(one_pack(rows), 1.0)
    monkeypatch.setattr("shoal.train.finetune.pack.MIN_PREFIX", 10**6)
    pack = one_pack(rows)
    assert len(pack.token_ids) == pack.num_row_tokens
    assert nats == pytest.approx(apart.backward(pack, 1.0), rel=1e-12)
    assert_same(gradients(shared), gradients(apart), 1e-12)


@pytest.mark.parametrize("family", ["llama", "gemma2", "mpt"])
def test_long_rows_in_pieces_are_exact(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    pack = one_pack(random_rows([(150, 50), (90, 40)], prefix=30))
    whole, pieces = (make_network(checkpoint, dtype=torch.float64) for _ in range(2))
    nats = whole.backward(pack, 1.0)
    monkeypatch.setattr(attention, "_QUERIES_AT_ONCE", 13)
    assert pieces.backward(pack, 1.0) == pytest.approx(nats, rel=1e-12)
    assert_same(gradients(pieces), gradients(whole), 1e-12)


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_bits(family: str, rank: int | None, tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    lora = make_lora(checkpoint.architecture, checkpoint.spec, rank, 8.0) if rank else None
    pack = one_pack(random_rows(SHAPES, prefix=22))
    found = []
    for checkpointing in (False, True):
        network = make_network(checkpoint, lora=lora, checkpointing=checkpointing)
        give_products_values(network)
        found.append((network.backward(pack, 0.5), gradients(network)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_logits_in_chunks_give_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    pack = one_pack(random_rows(SHAPES))
    one, many = (make_network(checkpoint, dtype=torch.float64) for _ in range(2))
    nats = one.backward(pack, 1.0)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 1)
    assert many.backward(pack, 1.0) == pytest.approx(nats, rel=1e-12)
    assert many.nats(pack) == (pytest.approx(nats, rel=1e-12), pack.num_targets)
    assert_same(gradients(many), gradients(one), 1e-12)


LORA_FAMILIES = {
    "llama": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "c_fc"),
    "phi3": ("qkv_proj", "gate_up_proj", "o_proj"),
    "gpt_neox": ("query_key_value", "dense_h_to_4h"),
    "bloom": ("query_key_value",),
    "qwen2": ("all-linear",),
    "gemma2": ("all-linear",),
    "gpt_neo": ("all-linear",),
}


@pytest.mark.parametrize("family", LORA_FAMILIES)
def test_low_rank_gradients_equal_those_of_peft(family: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = write_tiny_model(tmp_path / "tiny", family)
    checkpoint = load(folder)
    names = LORA_FAMILIES[family]
    lora = make_lora(checkpoint.architecture, checkpoint.spec, 4, 12.0, names)
    network = make_network(checkpoint, lora=lora)
    give_products_values(network)
    targets: Any = "all-linear" if names == ("all-linear",) else list(names)
    config = peft.LoraConfig(
        r=4, lora_alpha=12.0, target_modules=targets, fan_in_fan_out=family == "gpt2"
    )
    model = peft.get_peft_model(reference_model(folder), config)
    low_rank = by_module(network)
    leaves = dict(model.named_parameters())
    name_of = "base_model.model.{}.lora_{}.default.weight".format
    trained = {name for name, leaf in leaves.items() if leaf.requires_grad}
    assert trained == {name_of(module, which) for module in low_rank for which in "AB"}
    for module, (a, b) in low_rank.items():
        leaves[name_of(module, "A")].data.copy_(a)
        leaves[name_of(module, "B")].data.copy_(b)

    rows = random_rows(SHAPES, prefix=22)
    wanted = reference_nats(model, rows)
    wanted.backward()
    assert network.backward(one_pack(rows), 1.0) == pytest.approx(wanted.item(), rel=1e-5)
    # As they are stored: the rows of a fused B in the file's order.
    products = network._low_ranks or {}
    for product in products.values():
        assert product.a.grad is not None
        assert product.b.grad is not None
        a, b = stored(product._replace(a=product.a.grad, b=product.b.grad))
        name = product.module.name
        assert_close(a, leaves[name_of(name, "A")].grad, 1e-4, name)
        assert_close(b, leaves[name_of(name, "B")].grad, 1e-4, name)


def test_products_begin_as_those_of_peft(tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", "llama"))
    lora = make_lora(checkpoint.architecture, checkpoint.spec, 64, 64.0)
    network, again, other = (make_network(checkpoint, lora=lora, seed=seed) for seed in (1, 1, 2))
    pack = one_pack(random_rows(SHAPES))
    plain = make_network(checkpoint)
    assert network.nats(pack) == pytest.approx(plain.nats(pack), rel=1e-6)
    assert len(by_module(network)) == 2 * 7
    for name, (a, b) in by_module(network).items():
        limit = a.shape[1] ** -0.5
        assert 0.97 * limit < a.abs().max() <= limit
        assert a.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)
        assert not b.any()
        assert torch.equal(a, by_module(again)[name][0])
        assert not torch.equal(a, by_module(other)[name][0])


@pytest.mark.parametrize("rank", [None, 8])
def test_bfloat16_is_near_float32(rank: int | None, tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", "llama", num_hidden_layers=4))
    lora = make_lora(checkpoint.architecture, checkpoint.spec, rank, 16.0) if rank else None
    pack = one_pack(random_rows(SHAPES, prefix=22))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        network = make_network(checkpoint, lora=lora, dtype=dtype)
        give_products_values(network)
        found.append((network.backward(pack, 1.0), gradients(network)))
        assert {leaf.dtype for leaf in network.parameters.values()} == {torch.float32}
    (exact, wanted), (near, rounded) = found
    assert near == pytest.approx(exact, rel=2e-3)
    assert_same(rounded, wanted, 0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_runs_give_the_same_bits(family: str, tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    pack = one_pack(random_rows(SHAPES, prefix=22))
    one, two = make_network(checkpoint), make_network(checkpoint)
    assert one.backward(pack, 0.1) == two.backward(pack, 0.1)
    found, again = gradients(one), gradients(two)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_gradients_add_up(tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", "llama"))
    rows = random_rows(SHAPES)
    apart, together = make_network(checkpoint), make_network(checkpoint)
    packs = make_packs(rows, 90)
    assert len(packs) > 2
    nats = sum(apart.backward(pack, 0.5) for pack in packs)
    assert nats == pytest.approx(together.backward(one_pack(rows), 0.5), rel=1e-6)
    assert_same(gradients(apart), gradients(together), 1e-5)


def test_a_pack_without_targets_changes_nothing(tmp_path: Path) -> None:
    network = make_network(load(write_tiny_model(tmp_path / "tiny", "llama")))
    pack = one_pack(random_rows([(20, 20)]))
    assert network.backward(pack, 1.0) == 0.0
    assert network.nats(pack) == (0.0, 0)
    assert not any(leaf.grad is not None for leaf in network.parameters.values())


def test_layers_below_the_lowest_product_have_no_backward(tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", "qwen3_moe"))
    # Only layer 1 has a plain MLP, so only it has `down` products.
    lora = make_lora(checkpoint.architecture, checkpoint.spec, 2, 2.0, ["down_proj"])
    network = make_network(checkpoint, lora=lora)
    assert {name.split(".")[2] for name in by_module(network)} == {"1"}
    seen: list[bool] = []
    first = network._decoder.layers[0]
    network._decoder.layers[0] = lambda *args: _noted(first(*args), seen)  # type: ignore[call-overload]
    network.backward(one_pack(random_rows(SHAPES)), 1.0)
    assert seen == [False]


def _noted(x: Tensor, seen: list[bool]) -> Tensor:
    seen.append(x.requires_grad)
    return x


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "tied"),
        ("gemma", "tied"),
        ("gpt2", "plain"),
        ("opt", "350m"),
        ("lfm2", "layer types, biases, kernel of 4"),
        ("qwen2_moe", "every other layer"),
        ("cohere", "norm of every head, biases"),
    ],
)
def test_whole_weights_are_the_base_s_until_it_is_trained(
    family: str, name: str, tmp_path: Path
) -> None:
    checkpoint = load(write_case(tmp_path / "tiny", family, name))
    network = make_network(checkpoint)
    weights = {role: weight.clone() for role, weight in network.whole_weights()}
    assert weights.keys() == checkpoint.weights.keys()
    for role, weight in weights.items():
        assert weight.dtype == torch.float32
        assert np.array_equal(weight.numpy(), checkpoint.weights[role].array), role
    with torch.no_grad():
        for leaf in network.parameters.values():
            leaf += 1
    for role, weight in network.whole_weights():
        assert torch.equal(weight, weights[role] + 1), role


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox", "lfm2"])
def test_merged_products_compute_what_they_did_beside_the_base(family: str, tmp_path: Path) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    lora = make_lora(checkpoint.architecture, checkpoint.spec, 4, 12.0)
    network = make_network(checkpoint, lora=lora)
    give_products_values(network)
    merged = make_network(checkpoint)
    weights: dict[Role, Tensor] = dict(network.whole_weights())
    with torch.no_grad():
        for role, part in merged._weights.parts.items():
            part.leaf[part.rows] = weights[role]
    pack = one_pack(random_rows(SHAPES))
    plain = make_network(checkpoint).nats(pack)[0]
    assert merged.nats(pack) == pytest.approx(network.nats(pack), rel=1e-5)
    assert abs(merged.nats(pack)[0] - plain) > 1


@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("llama", ["q_proj", "c_attn"], "'c_attn' is none of this base: choose among all-linear"),
        ("llama", ["lm_head"], "'lm_head' is none of this base"),
        ("llama", ["roj"], "'roj' is none of this base"),
        ("llama", [], "no targets"),
        ("gpt2", ["q"], "c_attn holds q, k, v in one matrix: name k, v too"),
    ],
)
def test_targets_that_the_base_lacks_are_refused_by_name(
    family: str, targets: list[str], message: str, tmp_path: Path
) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    with pytest.raises(RecipeError, match=message):
        make_lora(checkpoint.architecture, checkpoint.spec, 4, 4.0, targets)


@pytest.mark.parametrize(
    ("family", "targets", "roles"),
    [
        ("llama", ["all-linear"], "down gate k output q up v"),
        ("llama", ["q_proj", "v"], "q v"),
        ("llama", ["self_attn.o_proj"], "output"),
        ("gpt2", ["c_attn"], "k q v"),
        ("gpt2", ["attn.c_proj"], "output"),
        ("gpt2", ["c_proj"], "down output"),
        ("phi3", ["gate_up_proj"], "gate up"),
        ("lfm2", ["w1", "out_proj"], "gate output"),
        ("qwen3_moe", ["all-linear"], "down gate k output q up v"),
    ],
)
def test_targets_are_modules_of_the_family_or_roles(
    family: str, targets: list[str], roles: str, tmp_path: Path
) -> None:
    checkpoint = load(write_tiny_model(tmp_path / "tiny", family))
    lora = make_lora(checkpoint.architecture, checkpoint.spec, 4, 4.0, targets)
    assert lora.targets == tuple(roles.split())
