"""The mean of two folders: between both, and refused where they do not fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from models.recipes.pilotfish.averaging import average_folders, weighted_mean
from shoal.train.config import Sampling
from shoal.train.export import export_folder
from shoal.train.network import Llama
from tests.train.builders import TINY, make_tokenizer

EMBEDDING = "model.embed_tokens.weight"


def tiny_folder(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    network = Llama(TINY, tokenizer.get_vocab_size())
    network.initialize(seed=1)
    export_folder(network, tokenizer, Sampling(), folder)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    first, second = tiny_folder(tmp_path / "first"), tiny_folder(tmp_path / "second")
    weights = load_file(second / "model.safetensors")
    changed = {name: weight + torch.ones_like(weight) for name, weight in weights.items()}
    save_file(changed, second / "model.safetensors")
    return first, second


def test_every_weight_lies_between_the_two(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = pair
    average_folders(first, second, tmp_path / "mean", 0.25, {})
    one, other, mean = (
        load_file(folder / "model.safetensors") for folder in (first, second, tmp_path / "mean")
    )
    for name, weight in mean.items():
        expected = 0.75 * one[name].float() + 0.25 * other[name].float()
        torch.testing.assert_close(weight, expected.to(weight.dtype), rtol=0.01, atol=1e-6)
        assert weight.dtype == one[name].dtype
    assert (tmp_path / "mean" / "lock.json").is_file()


def test_a_weakened_answer_has_a_shorter_row_and_no_other(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    first, _ = pair
    average_folders(first, first, tmp_path / "mean", 0.5, {"the": 0.5})
    tokenizer = Tokenizer.from_file(str(first / "tokenizer.json"))
    token = tokenizer.encode("the", add_special_tokens=False).ids[0]
    before = load_file(first / "model.safetensors")[EMBEDDING]
    after = load_file(tmp_path / "mean" / "model.safetensors")[EMBEDDING]
    torch.testing.assert_close(after[token], before[token] * 0.5)
    kept = torch.arange(len(before)) != token
    assert torch.equal(after[kept], before[kept])


def test_other_networks_and_tokenizers_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = pair
    weights = load_file(first / "model.safetensors")
    with pytest.raises(ValueError, match="different networks"):
        weighted_mean(weights, {EMBEDDING: weights[EMBEDDING]}, 0.5)
    (second / "tokenizer.json").write_text("{}")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "models.recipes.pilotfish.averaging",
            first,
            second,
            "--out",
            tmp_path / "mean",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "different tokenizers" in done.stderr
    assert "Traceback" not in done.stderr
