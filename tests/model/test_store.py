"""Weights by role and back: every family's tensors come out under the names and with the bytes that
they went in with."""

from pathlib import Path

import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.model.registry import read_model
from shoal.model.spec import Role
from shoal.model.store import Array, joined, stored_tensors
from shoal.model.weights import expected_tensors, load_weights, named_tensors
from tests.fakes.tiny_models import CONFIGS, random_weights
from tests.model.cases import CASES, write_case


def loaded(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, lambda progress: None)


def stored_again(checkpoint: Checkpoint, weights: dict[Role, Array]) -> dict[str, Array]:
    spec, files = checkpoint.spec, checkpoint.files
    tensors = files.tensors(lambda progress: None)
    of_base, expected = named_tensors(spec, checkpoint.architecture, tensors, files.name)
    unused = {
        name: of_base[name].array[: each.source.first_row]
        for name, each in expected.items()
        if each.source.first_row
    }
    return dict(stored_tensors(spec, expected, weights.items(), unused))


def by_role(checkpoint: Checkpoint) -> dict[Role, Array]:
    return {role: tensor.array for role, tensor in checkpoint.weights.items()}


@pytest.mark.parametrize("family", CASES)
def test_what_is_loaded_is_stored_as_it_was(family: str, tmp_path: Path) -> None:
    for number, name in enumerate(CASES[family]):
        folder = tmp_path / str(number)
        write_case(folder, family, name)
        checkpoint = loaded(folder)
        before = checkpoint.files.tensors(lambda progress: None)
        after = stored_again(checkpoint, by_role(checkpoint))
        assert after.keys() == before.keys(), name
        for key, array in after.items():
            assert array.shape == before[key].array.shape, f"{name}: {key}"
            assert array.tobytes() == before[key].array.tobytes(), f"{name}: {key}"


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_in_one_tensor_stay_so(family: str) -> None:
    config = CONFIGS[family]
    architecture, spec, _ = read_model(config, "tiny/config.json")
    names = expected_tensors(architecture, spec, ["model.layers.0.mlp.experts.gate_up_proj"])
    rng = np.random.default_rng(0)
    arrays = {name: rng.random(each.shape, np.float32) for name, each in names.items()}
    tensors = {name: StoredTensor("F32", array, "tiny") for name, array in arrays.items()}
    weights = load_weights(spec, architecture, tensors, "tiny")
    assert any(each.source.stacked for each in names.values())
    pairs = ((role, tensor.array) for role, tensor in weights.items())
    found = dict(stored_tensors(spec, names, pairs, {}))
    assert found.keys() == arrays.keys()
    assert all((found[name] == array).all() for name, array in arrays.items())


def test_older_names_and_those_without_the_prefix_become_those_of_the_family() -> None:
    config = CONFIGS["gpt_neox"]
    architecture, spec, _ = read_model(config, "tiny/config.json")
    arrays = random_weights(config)
    assert "lm_head.weight" in arrays
    names = {name: name.removeprefix("gpt_neox.") for name in arrays}
    names["lm_head.weight"] = "embed_out.weight"
    tensors = {names[name]: StoredTensor("F32", array, "tiny") for name, array in arrays.items()}
    named, expected = named_tensors(spec, architecture, tensors, "tiny")
    assert named.keys() == expected.keys() == arrays.keys()
    assert all(named[name].array is array for name, array in arrays.items())


def test_the_order_of_the_weights_does_not_matter(tmp_path: Path) -> None:
    write_case(tmp_path / "m", "gpt_neox", next(iter(CASES["gpt_neox"])))
    checkpoint = loaded(tmp_path / "m")
    weights = by_role(checkpoint)
    backwards = dict(reversed(weights.items()))
    one, other = stored_again(checkpoint, weights), stored_again(checkpoint, backwards)
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


def test_weights_that_are_missing_twice_or_unknown_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "m", "llama", next(iter(CASES["llama"])))
    checkpoint = loaded(tmp_path / "m")
    weights = by_role(checkpoint)
    less = {role: array for role, array in weights.items() if role != Role("up.weight", 1)}
    with pytest.raises(ValueError, match=r"missing: layers\.1\.up\.weight"):
        stored_again(checkpoint, less)
    with pytest.raises(ValueError, match="side is no weight"):
        stored_again(checkpoint, weights | {Role("side"): weights[Role("embedding")]})
    expected = expected_tensors(checkpoint.architecture, checkpoint.spec)
    twice = [*weights.items(), (Role("embedding"), weights[Role("embedding")])]
    with pytest.raises(ValueError, match="embedding is no weight of this network, or is given"):
        dict(stored_tensors(checkpoint.spec, expected, twice, {}))


def test_joined_puts_groups_after_each_other() -> None:
    queries, keys = np.arange(8).reshape(4, 2), np.arange(100, 104).reshape(2, 2)
    assert joined([queries, keys], 1)[:, 0].tolist() == [0, 2, 4, 6, 100, 102]
    assert joined([queries, keys], 2)[:, 0].tolist() == [0, 2, 100, 4, 6, 102]
