"""Fine-tuning from folders that others wrote: their weights are kept, what they lack is added."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from shoal.train.base import load_base, reads_twice
from shoal.train.config import RecipeError
from shoal.train.tokenizer import CONTROL_TOKENS, END_OF_TEXT, chat_template
from tests.train.builders import make_stories

transformers = pytest.importorskip("transformers")


def others_folder(folder: Path, *, tied: bool = False) -> Path:
    """A random Llama as transformers saves it, with a tokenizer that has one control token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_stories(), trainer)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder, max_shard_size="60KB")  # in several files
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_what_a_folder_of_transformers_knows_is_kept(tmp_path: Path, tied: bool) -> None:
    folder = others_folder(tmp_path, tied=tied)
    network, tokenizer = load_base(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(theirs.config.vocab_size, (2, 30))
    with torch.no_grad():
        logits = network.eval()(ids)[..., : theirs.config.vocab_size]
        torch.testing.assert_close(logits, theirs(ids).logits, atol=2e-4, rtol=1e-4)
    assert network.vocab_size == theirs.config.vocab_size + len(CONTROL_TOKENS)
    assert tokenizer.encode("Tom").ids[0] == tokenizer.token_to_id(END_OF_TEXT)


def test_a_base_that_reads_twice_is_known_by_its_template(tmp_path: Path) -> None:
    base = others_folder(tmp_path)
    assert not reads_twice(base)
    for twice in (True, False):
        settings = {"chat_template": chat_template(twice)}
        (base / "tokenizer_config.json").write_text(json.dumps(settings))
        assert reads_twice(base) == twice


def test_scaled_rotary_positions_are_refused_by_name(tmp_path: Path) -> None:
    path = others_folder(tmp_path) / "config.json"
    scaled = {"rope_type": "llama3", "rope_theta": 1e4}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": scaled}))
    with pytest.raises(RecipeError, match="rope_type is 'llama3'"):
        load_base(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (others_folder(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"has no tokenizer\.json"):
        load_base(tmp_path)


def test_only_the_files_that_the_index_names_are_read(tmp_path: Path) -> None:
    folder = others_folder(tmp_path)
    (folder / "consolidated.safetensors").write_bytes(b"another layout of the same weights")
    network, _ = load_base(folder)
    assert network.vocab_size == 300 + len(CONTROL_TOKENS)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[0].unlink()
    with pytest.raises(RecipeError, match=f"names {shards[0].name}, which"):
        load_base(folder)


@pytest.mark.parametrize(("key", "value"), [("attention_bias", True), ("hidden_act", "gelu")])
def test_what_cannot_be_trained_is_refused_by_its_name(
    tmp_path: Path, key: str, value: object
) -> None:
    folder = others_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(RecipeError, match=f"{key} is {value!r}"):
        load_base(folder)
