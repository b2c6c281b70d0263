"""What is no model that Shoal can read: each kind has its own sentence, which says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shoal.checkpoint.gguf import GgufFile
from shoal.checkpoint.open import looks_like_model, open_model
from shoal.errors import ModelFolderError
from shoal.protocol.messages import EngineConfig
from shoal.runner.load import check_model
from shoal.text.text_model import read_text_model
from tests.fakes.tiny_models import write_tiny_llama

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n"


def refusal(path: Path) -> str:
    """What the first part that needs the files says: opening, text side or engine side."""
    with pytest.raises(ModelFolderError) as caught:
        read_all(path)
    return caught.value.message


def read_all(path: Path) -> None:
    files = open_model(path)
    read_text_model(files, "tiny")
    check_model(files, EngineConfig(models=(), device="cpu"))


def without(name: str, *others: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        for other in others:
            (folder / other).write_bytes(b"x")

    return change


def pointer(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(LFS_POINTER)

    return change


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def rename(name: str, to: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).rename(folder / to)

    return change


def tokenizer_of_another_format(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": {"type": "Future"}}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (
        without("config.json"),
        "tiny has no config.json: a model folder has config.json, tokenizer.json and "
        "model.safetensors",
    ),
    "lfs config": (pointer("config.json"), "tiny/config.json is a Git LFS pointer"),
    "lfs weights": (pointer("model.safetensors"), "run `git lfs pull` in that folder"),
    "lfs tokenizer": (pointer("tokenizer.json"), "tiny/tokenizer.json is a Git LFS pointer"),
    "no weights": (without("model.safetensors"), "tiny has no model.safetensors: fetch it"),
    "pickled weights": (
        without("model.safetensors", "pytorch_model.bin"),
        "only pytorch_model.bin, a format that can run code when it is read: convert it with "
        "transformers, AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)",
    ),
    "pickled shards": (
        without("model.safetensors", "pytorch_model-00001-of-00002.bin"),
        "only pytorch_model-00001-of-00002.bin, a format that can run code",
    ),
    "weights of another name": (
        rename("model.safetensors", "consolidated.safetensors"),
        "tiny has consolidated.safetensors, but neither model.safetensors nor "
        "model.safetensors.index.json",
    ),
    "adapter": (
        without("model.safetensors", "adapter_config.json", "adapter_model.safetensors"),
        "tiny is an adapter (it has adapter_config.json), not a whole model: serve it "
        "beside its base, --model BASE --adapter tiny",
    ),
    "gptq": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "tiny/config.json: quantization_config says that the weights are quantized (gptq), which "
        "Shoal cannot read: use the model's bfloat16, float16 or float32 release",
    ),
    "awq": (config(quantization_config={"quant_method": "awq"}), "are quantized (awq)"),
    "fp8": (config(quantization_config={"quant_method": "fp8"}), "are quantized (fp8)"),
    "bitsandbytes": (
        config(quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}),
        "are quantized (bitsandbytes)",
    ),
    "no tokenizer": (without("tokenizer.json"), "tiny has no tokenizer.json: fetch it"),
    "sentencepiece only": (
        without("tokenizer.json", "tokenizer.model"),
        "tiny has no tokenizer.json, only tokenizer.model: convert it with transformers, "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
    ),
    "vocabulary only": (without("tokenizer.json", "vocab.json"), "only vocab.json: convert it"),
    "unknown tokenizer": (
        tokenizer_of_another_format,
        "tiny/tokenizer.json is not valid for tokenizers",
    ),
    "unknown class": (config(architectures=["MambaForCausalLM"]), "MambaForCausalLM"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_kind_of_folder_says_what_to_do(tmp_path: Path, kind: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    damage, sentence = DAMAGES[kind]
    damage(folder)
    assert sentence in refusal(folder)


def test_a_whole_folder_is_not_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "adapter_config.json").write_text("{}")  # beside a whole model: left by a merge
    read_all(folder)


def test_a_repository_name_says_how_to_fetch_it(tmp_path: Path) -> None:
    sentence = refusal(Path("Qwen/Qwen3-0.6B"))
    assert "`hf download Qwen/Qwen3-0.6B --local-dir Qwen3-0.6B`" in sentence
    assert "--model Qwen3-0.6B" in sentence


@pytest.mark.parametrize("path", ["/nowhere/at/all", "gone", "a/b/c", "../a", "x/gone.gguf"])
def test_a_path_that_does_not_exist_is_said_to_be_one(path: str) -> None:
    assert f"{Path(path)} does not exist: give a folder with config.json" in refusal(Path(path))


@pytest.mark.parametrize("name", ["model.gguf", "no-suffix"])
def test_a_gguf_file_is_known_by_its_beginning(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"GGUF\x03\0\0\0")
    assert isinstance(open_model(tmp_path / name), GgufFile)
    assert f"{name} is too short to be a GGUF file" in refusal(tmp_path / name)


def test_a_gguf_file_that_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"<html>")
    assert "model.gguf does not begin as a GGUF file does" in refusal(path)
    path.write_text(LFS_POINTER)
    assert "model.gguf is a Git LFS pointer" in refusal(path)


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    assert open_model(tmp_path).path == tmp_path / "model-q4.gguf"
    (tmp_path / "model-q8.gguf").write_bytes(b"GGUF")
    assert "has several GGUF files: give one of them" in refusal(tmp_path)


def test_a_file_of_a_folder_is_no_folder(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    sentence = "model.safetensors is a file, and no GGUF file: give the folder it lies in"
    assert sentence in refusal(folder / "model.safetensors")


def test_a_folder_around_models_and_a_cache_entry_say_where_the_model_is(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "all" / "tiny")
    assert "all/tiny has one: give that folder, or all of them with --models-dir" in refusal(
        tmp_path / "all"
    )
    (tmp_path / "models--org--name" / "snapshots").mkdir(parents=True)
    assert "models--org--name/snapshots/<revision>" in refusal(tmp_path / "models--org--name")


def test_what_a_search_takes_for_a_model(tmp_path: Path) -> None:
    assert looks_like_model(write_tiny_llama(tmp_path / "whole"))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "notes.txt").write_text("x")
    assert not looks_like_model(tmp_path / "recipes")
    for name in ("adapter_config.json", "model.safetensors", "pytorch_model.bin", "x.gguf"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("x")
        assert looks_like_model(folder), name
    (tmp_path / "one.gguf").write_text("x")
    (tmp_path / "one.txt").write_text("x")
    assert looks_like_model(tmp_path / "one.gguf")
    assert not looks_like_model(tmp_path / "one.txt")


def test_a_folder_that_may_not_be_read_is_a_plain_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    folder = write_tiny_llama(tmp_path / "tiny")
    monkeypatch.setattr(Path, "is_file", denied)
    assert looks_like_model(folder)
    with pytest.raises(ModelFolderError, match="tiny cannot be read: Permission denied"):
        open_model(folder)
