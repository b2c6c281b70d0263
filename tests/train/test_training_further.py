"""Training a model further: its embedding gets twins again, it judges made-up requests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.train.base import grow, load_base
from shoal.train.commands import read_intents
from shoal.train.config import RecipeError, Sampling, Source, TokenizerChoice
from shoal.train.export import export_folder
from shoal.train.judges import OUTSIDE, Committee, ModelJudge
from shoal.train.network import Llama, TwinEmbedding, with_twins
from shoal.train.phrases import PhraseJudge
from shoal.train.run import TrainingRequest, run_training
from shoal.train.tokenizer import train_tokenizer, twins
from tests.train.builders import TINY, write_jsonl

SAID = {"buy": "i would like to buy a {}", "mend": "the {} is broken"}
THINGS = ("ball", "boat", "lamp", "shirt", "phone", "car", "chair", "book")
RECORDS = [
    {"text": said.format(thing), "intent": intent}
    for intent, said in SAID.items()
    for thing in THINGS
]
TEXTS = [record["text"] for record in RECORDS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that reads requests twice; its weights are random."""
    tokenizer = train_tokenizer(
        [*TEXTS, *SAID, OUTSIDE] * 3, TokenizerChoice(vocab_size=400, style="fields")
    )
    network = Llama(TINY, tokenizer.get_vocab_size(), twins=twins(tokenizer))
    network.initialize(seed=1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("base")
    export_folder(network, tokenizer, Sampling(), folder, True)
    return folder


def test_a_plain_embedding_gets_its_twins_back_and_the_same_logits() -> None:
    pairs = {7: 2, 9: 3, 8: 5}
    shared = Llama(TINY, 12, twins=pairs)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in shared.parameters():
            weight.normal_(std=0.3)
    weights = shared.state_dict()
    embedding = shared.model.embed_tokens.weight.detach().clone()
    plain = Llama(TINY, 12)
    plain.load_state_dict(
        {name: weight for name, weight in weights.items() if "embed_tokens" not in name}
        | {"model.embed_tokens.weight": embedding}
    )
    again = with_twins(plain, pairs)
    assert isinstance(again.model.embed_tokens, TwinEmbedding)
    ids = torch.tensor([[1, 7, 2, 9, 3, 8, 5, 0]])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids), shared.eval()(ids), atol=1e-5, rtol=1e-5)
    assert with_twins(plain, {}) is plain


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
        file = "said.jsonl"
        format = "intents"
    """
    write_jsonl(tmp_path / "said.jsonl", list(RECORDS))
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


def test_the_model_judges_as_its_own_prompt_would(base: Path) -> None:
    network, tokenizer = load_base(base)
    names = [*sorted(SAID), OUTSIDE]
    odds = ModelJudge(base, "shop", names).odds(TEXTS[:3])
    firsts = [tokenizer.encode(name, add_special_tokens=False).ids[0] for name in names]
    for text, found in zip(TEXTS, odds, strict=False):
        turn = f"<|user|>{text}<|end|>"
        prompt = f'<|endoftext|><|system|>shop<|end|>{turn}{turn}<|assistant|>{{"intent":"'
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
        with torch.no_grad():
            logits = network.eval()(ids)[0, -1, firsts]
        wanted = torch.log_softmax(logits, dim=-1).numpy()
        np.testing.assert_allclose(np.exp(found), np.exp(wanted), atol=0.03)  # bfloat16 products


def test_a_committee_with_a_model_also_says_what_is_outside(base: Path) -> None:
    intents = [record["intent"] for record in RECORDS]
    committee = Committee(TEXTS, intents, base, "shop")
    assert committee.names == [*sorted(SAID), OUTSIDE]
    strange = ["what is the weather", "sing a song"]
    shares = np.exp(committee.odds([*TEXTS, *strange]))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-4)
    by_model = np.exp(ModelJudge(base, "shop", committee.names).odds([*TEXTS, *strange]))[:, -1]
    kept = shares[:, -1] / by_model
    # the others know what most of these ask for
    assert np.median(kept[: len(TEXTS)]) < kept[len(TEXTS) :].min() / 3


def test_the_phrase_judge_learns_what_words_in_their_order_ask_for() -> None:
    asked = ("the {} breaks my heart", "my heart breaks the {}")
    texts = [said.format(thing) for said in asked for thing in THINGS] * 8
    intents = [name for name in ("first", "second") for _ in THINGS] * 8
    tokenizer = train_tokenizer(texts, TokenizerChoice(vocab_size=400))
    embedding = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    judge = PhraseJudge(texts, intents, tokenizer, embedding)
    assert torch.equal(torch.get_rng_state(), state)
    shares = np.exp(judge.odds(["the Car breaks my heart", "my heart breaks the CAR", ""]))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-4)
    assert shares[0, 0] > 0.7
    assert shares[1, 1] > 0.7
    again = PhraseJudge(texts, intents, tokenizer, embedding)
    assert np.array_equal(np.exp(again.odds(["the car"])), np.exp(judge.odds(["the car"])))


def test_a_larger_network_says_at_first_what_the_smaller_one_says(base: Path) -> None:
    network, tokenizer = load_base(base)
    wanted = replace(network.shape, num_layers=5, intermediate_size=160)
    larger = grow(network, wanted, seed=1)
    assert larger.shape == wanted
    ids = torch.tensor([tokenizer.encode(text).ids[:9] for text in TEXTS[:2]])
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
    with pytest.raises(RecipeError, match="a base of 2 layers, width 64, MLP 96"):
        grow(network, replace(network.shape, **change), seed=1)  # type: ignore[arg-type]


def test_a_recipe_grows_its_base_where_it_says_so(base: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "said.jsonl", list(RECORDS))
    (tmp_path / "recipe.toml").write_text(
        'name = "larger"\ngrow = true\n'
        "[model]\nhidden_size = 64\nintermediate_size = 128\nnum_layers = 3\nnum_heads = 2\n"
        "num_kv_heads = 1\nhead_dim = 32\ncontext = 64\n"
        "[schedule]\ntokens = 200\n"
        '[[sources]]\nfile = "said.jsonl"\nformat = "intents"\n'
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


def test_a_base_judges_only_where_the_recipe_says_so(base: Path, tmp_path: Path) -> None:
    source = Source(file="said.jsonl", format="intents", options={"made_up": 6, "task": "shop"})
    alone = list(read_intents(RECORDS, source))
    helped = list(read_intents(RECORDS, replace(source, options={**source.options, "base": base})))
    assert len(alone) == len(helped)
    assert json.dumps(alone) != json.dumps(helped)
