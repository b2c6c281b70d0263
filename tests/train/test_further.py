"""Training a model further by a recipe: at the recipe's rates, grown where it says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shoal.train.base import load_base
from shoal.train.config import RecipeError, Sampling, TokenizerChoice
from shoal.train.export import export_folder
from shoal.train.grow import grow
from shoal.train.network import Llama
from shoal.train.run import TrainingRequest, run_training
from shoal.train.tokenizer import train_tokenizer, twins
from tests.train.builders import TINY, make_stories, randomize, write_jsonl

ANSWERS: list[dict[str, object]] = [
    {"prompt": story, "completion": "fine"} for story in make_stories()
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of style "fields"; its weights are random."""
    tokenizer = train_tokenizer(make_stories(), TokenizerChoice(vocab_size=400, style="fields"))
    network = Llama(TINY, tokenizer.get_vocab_size(), twins=twins(tokenizer))
    network.initialize(seed=1)
    randomize(network)
    folder = tmp_path_factory.mktemp("base")
    export_folder(network, tokenizer, Sampling(), folder)
    return folder


def test_a_recipe_trains_a_folder_further_at_its_own_rates(base: Path, tmp_path: Path) -> None:
    recipe = """
        name = "further"
        [tokenizer]
        style = "fields"
        [schedule]
        tokens = 400
        batch_tokens = 256
        matrix_lr = RATE
        other_lr = 0.0
        warmup_steps = 1
        decay_share = 0.0
        weight_decay = 0.0
        clip = 1.0
        [[sources]]
        file = "own.jsonl"
    """
    write_jsonl(tmp_path / "own.jsonl", ANSWERS)
    moved = []
    for rate in ("0.01", "0.02"):
        (tmp_path / "recipe.toml").write_text(recipe.replace("RATE", rate))
        tuned = run_training(
            TrainingRequest(
                out=tmp_path / rate,
                data=tmp_path,
                recipe=tmp_path,
                base=base,
                run_dir=tmp_path / f"run {rate}",
                device="cpu",
            )
        )
        before, after = (load_base(folder)[0].state_dict() for folder in (base, tuned.out))
        name = "model.layers.0.mlp.up_proj.weight"
        moved.append(float((after[name] - before[name]).norm()) / tuned.progress.step)
    # a step of Muon changes every singular value by the rate
    full = 0.01 * min(TINY.hidden_size, TINY.intermediate_size) ** 0.5
    assert moved[0] > full / 3
    assert moved[1] > 1.5 * moved[0]


def test_a_larger_network_computes_at_first_what_the_smaller_one_does(base: Path) -> None:
    network, tokenizer = load_base(base)
    larger_shape = replace(network.shape, num_layers=5, intermediate_size=160)
    larger = grow(network, larger_shape, seed=1)
    assert larger.shape == larger_shape
    ids = torch.tensor([tokenizer.encode(text).ids[:9] for text in make_stories()[:2]])
    with torch.no_grad():
        torch.testing.assert_close(larger.eval()(ids), network.eval()(ids), atol=1e-5, rtol=1e-5)
    larger.train()
    larger(ids).logsumexp(dim=-1).sum().backward()
    assert all(layer.mlp.down_proj.weight.grad.norm() > 0 for layer in larger.model.layers)


@pytest.mark.parametrize(
    "change", [{"num_layers": 1}, {"hidden_size": 128}, {"num_kv_heads": 2}, {"rope_theta": 5e5}]
)
def test_a_network_grows_in_layers_and_mlps_only(base: Path, change: dict[str, float]) -> None:
    network, _ = load_base(base)
    with pytest.raises(RecipeError, match="a base of 2 layers, hidden size 64, MLP 96"):
        grow(network, replace(network.shape, **change), seed=1)  # type: ignore[arg-type]


def test_a_recipe_grows_its_base_where_it_says_so(base: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "own.jsonl", ANSWERS)
    (tmp_path / "recipe.toml").write_text(
        'name = "larger"\ngrow = true\n'
        "[model]\nhidden_size = 64\nintermediate_size = 128\nnum_layers = 3\nnum_heads = 2\n"
        "num_kv_heads = 1\nhead_dim = 32\ncontext = 64\n"
        "[schedule]\ntokens = 200\n"
        '[[sources]]\nfile = "own.jsonl"\n'
    )
    tuned = run_training(
        TrainingRequest(
            out=tmp_path / "out",
            data=tmp_path,
            recipe=tmp_path,
            base=base,
            run_dir=tmp_path / "run",
            device="cpu",
        )
    )
    shape = load_base(tuned.out)[0].shape
    assert (shape.num_layers, shape.intermediate_size) == (3, 128)
