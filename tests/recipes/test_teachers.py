"""Teachers of synthetic requests: each alone, and what the ensemble makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.recipes.pilotfish.answers import OUT_OF_SCOPE
from models.recipes.pilotfish.phrase_teacher import PhraseTeacher
from models.recipes.pilotfish.readers import read_intents
from models.recipes.pilotfish.teachers import Ensemble, ModelTeacher
from shoal.train.base import load_base
from shoal.train.config import Sampling, Source, TokenizerChoice
from shoal.train.export import export_folder
from shoal.train.network import Llama
from shoal.train.pieces import ReadContext
from shoal.train.tokenizer import train_tokenizer, twins
from tests.train.builders import TINY, randomize

PATTERNS = {"buy": "i would like to buy a {}", "mend": "the {} is broken"}
THINGS = ("ball", "boat", "lamp", "shirt", "phone", "car", "chair", "book")
RECORDS = [
    {"text": pattern.format(thing), "intent": intent}
    for intent, pattern in PATTERNS.items()
    for thing in THINGS
]
TEXTS = [record["text"] for record in RECORDS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that reads requests twice; its weights are random."""
    tokenizer = train_tokenizer(
        [*TEXTS, *PATTERNS, OUT_OF_SCOPE] * 3, TokenizerChoice(vocab_size=400, style="fields")
    )
    network = Llama(TINY, tokenizer.get_vocab_size(), twins=twins(tokenizer))
    network.initialize(seed=1)
    randomize(network)
    folder = tmp_path_factory.mktemp("base")
    export_folder(network, tokenizer, Sampling(), folder, True)
    return folder


def test_the_model_teaches_what_its_own_prompt_gives(base: Path) -> None:
    network, tokenizer = load_base(base)
    names = [*sorted(PATTERNS), OUT_OF_SCOPE]
    log_probs = ModelTeacher(base, "shop", names).log_probs(TEXTS[:3])
    firsts = [tokenizer.encode(name, add_special_tokens=False).ids[0] for name in names]
    for text, by_model in zip(TEXTS, log_probs, strict=False):
        turn = f"<|user|>{text}<|end|>"
        prompt = f'<|endoftext|><|system|>shop<|end|>{turn}{turn}<|assistant|>{{"intent":"'
        ids = torch.tensor([tokenizer.encode(prompt, add_special_tokens=False).ids])
        with torch.no_grad():
            logits = network.eval()(ids)[0, -1, firsts]
        expected = torch.log_softmax(logits, dim=-1).exp().numpy()
        np.testing.assert_allclose(np.exp(by_model), expected, atol=0.03)  # bfloat16 products


def test_an_ensemble_with_a_model_also_tells_what_is_out_of_scope(base: Path) -> None:
    intents = [record["intent"] for record in RECORDS]
    ensemble = Ensemble(TEXTS, intents, base, "shop")
    assert ensemble.names == [*sorted(PATTERNS), OUT_OF_SCOPE]
    strange = ["what is the weather", "sing a song"]
    shares = np.exp(ensemble.log_probs([*TEXTS, *strange]))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-4)
    by_model = np.exp(ModelTeacher(base, "shop", ensemble.names).log_probs([*TEXTS, *strange]))[
        :, -1
    ]
    kept = shares[:, -1] / by_model
    # the others are sure about most of these
    assert np.median(kept[: len(TEXTS)]) < kept[len(TEXTS) :].min() / 3


def test_the_phrase_teacher_learns_from_the_order_of_words() -> None:
    patterns = ("the {} breaks my heart", "my heart breaks the {}")
    texts = [pattern.format(thing) for pattern in patterns for thing in THINGS] * 8
    intents = [name for name in ("first", "second") for _ in THINGS] * 8
    tokenizer = train_tokenizer(texts, TokenizerChoice(vocab_size=400))
    embedding = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    teacher = PhraseTeacher(texts, intents, tokenizer, embedding)
    assert torch.equal(torch.get_rng_state(), state)
    shares = np.exp(teacher.log_probs(["the Car breaks my heart", "my heart breaks the CAR", ""]))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-4)
    assert shares[0, 0] > 0.7
    assert shares[1, 1] > 0.7
    again = PhraseTeacher(texts, intents, tokenizer, embedding)
    assert np.array_equal(
        np.exp(again.log_probs(["the car"])), np.exp(teacher.log_probs(["the car"]))
    )


def test_a_base_teaches_only_where_the_recipe_says_so(base: Path) -> None:
    options = {"synthetic": 6, "task": "shop"}
    source = Source(file="said.jsonl", format="intents", options=options)
    taught = replace(source, options={**options, "base_teaches": True})
    context = ReadContext(Path(), (), base)
    alone = list(read_intents(RECORDS, source, context))
    helped = list(read_intents(RECORDS, taught, context))
    assert len(alone) == len(helped)
    assert json.dumps(alone) != json.dumps(helped)
    without_base = list(read_intents(RECORDS, taught, ReadContext(Path(), ())))
    assert json.dumps(alone) == json.dumps(without_base)
