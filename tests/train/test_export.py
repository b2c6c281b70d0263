"""The exported folder: `transformers` loads it and computes the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from shoal.train.base import load_base
from shoal.train.config import RecipeError, Sampling
from shoal.train.export import export_folder
from shoal.train.network import Llama
from shoal.train.pieces import chat, read_twice
from shoal.train.tokenizer import END
from tests.train.builders import TINY, make_tokenizer

transformers = pytest.importorskip("transformers")


def exported(folder: Path, read_twice: bool = False) -> Llama:
    tokenizer = make_tokenizer()
    network = Llama(TINY, tokenizer.get_vocab_size())
    network.initialize(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # bf16 numbers everywhere, so that the export loses nothing
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
            weight.copy_(weight.bfloat16().float())
    network.eval()
    export_folder(network, tokenizer, Sampling(), folder, read_twice)
    return network


def some_ids(network: Llama) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(network.vocab_size, (3, 40), generator=generator)


def test_transformers_computes_the_same_logits(tmp_path: Path) -> None:
    network = exported(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = some_ids(network)
    with torch.no_grad():
        torch.testing.assert_close(network(ids), theirs(ids).logits, atol=2e-4, rtol=1e-4)


def test_loading_the_folder_again_gives_the_same_network(tmp_path: Path) -> None:
    network = exported(tmp_path)
    again, _ = load_base(tmp_path)
    ids = some_ids(network)
    with torch.no_grad():
        assert torch.equal(network(ids), again.eval()(ids))


def test_chat_template_writes_what_training_read(tmp_path: Path) -> None:
    exported(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "snips"}, {"role": "user", "content": "Hi there"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|endoftext|><|system|>snips<|end|><|user|>Hi there<|end|><|assistant|>"
    assert tokenizer("Hi").input_ids[0] == 0  # texts begin with the end-of-text token
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [0, tokenizer.convert_tokens_to_ids(END)]


def test_a_template_that_reads_twice_writes_what_training_read(tmp_path: Path) -> None:
    exported(tmp_path, read_twice=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "snips"},
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "{}"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "".join(segment.text for segment in read_twice(chat(messages)))
    assert text.count("<|user|>Hi there<|end|>") == 2
    assert (text.count("<|system|>"), text.count("<|assistant|>")) == (1, 1)


def test_lock_names_size_and_hash_of_every_file(tmp_path: Path) -> None:
    exported(tmp_path)
    lock = json.loads((tmp_path / "lock.json").read_text())["files"]
    assert set(lock) == {path.name for path in tmp_path.iterdir()} - {"lock.json"}
    for name, entry in lock.items():
        content = (tmp_path / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_a_base_of_another_architecture_is_refused_with_the_reason(tmp_path: Path) -> None:
    exported(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "gpt2"}))
    with pytest.raises(RecipeError, match="model_type is 'gpt2'"):
        load_base(tmp_path)
