"""Folders as Hugging Face's libraries write them: shards, tokenizer settings, chat templates."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.files import StoredTensor
from shoal.checkpoint.open import open_model
from shoal.checkpoint.quality import read_quality_loss
from shoal.errors import ModelFolderError
from tests.fakes.text_folder import CHAT_TEMPLATE, write_text_folder
from tests.fakes.tiny_models import (
    TINY_LLAMA,
    random_weights,
    save_safetensors,
    write_tiny_llama,
)


def tensors(folder: Path) -> Mapping[str, StoredTensor]:
    return open_model(folder).tensors(lambda progress: None)


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


# --- weights -------------------------------------------------------------------------------------


def shard(folder: Path, *, twice: bool = False) -> Path:
    """Cuts the folder's weights into two files with an index."""
    arrays = random_weights(TINY_LLAMA)
    names = sorted(arrays)
    half = len(names) // 2
    files = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half - twice :],
    }
    for file, own in files.items():
        save_safetensors(folder / file, {name: arrays[name] for name in own})
    weight_map = {name: file for file, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return folder


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    whole = open_model(write_tiny_llama(tmp_path / "whole"))
    cut = open_model(shard(write_tiny_llama(tmp_path / "cut")))
    found, wanted = (files.tensors(lambda progress: None) for files in (cut, whole))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found[name].array, tensor.array)
    assert cut.weights_hash != whole.weights_hash
    assert len(cut.weights_hash) == 16


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="in two files"):
        tensors(shard(write_tiny_llama(tmp_path / "tiny"), twice=True))


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "gone.safetensors"}}',
    ],
)
def test_a_bad_index_is_a_clean_error_and_never_leaves_the_folder(
    tmp_path: Path, index: str
) -> None:
    folder = shard(write_tiny_llama(tmp_path / "tiny"))
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFolderError):
        tensors(folder)


def test_a_stale_index_is_refused_by_tensor_and_file(tmp_path: Path) -> None:
    folder = shard(write_tiny_llama(tmp_path / "tiny"))
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    files = sorted(set(weight_map.values()))
    moved = next(name for name, file in weight_map.items() if file == files[0])
    write(index, {"weight_map": weight_map | {moved: files[1]}})
    with pytest.raises(ModelFolderError, match=rf"{moved} is in {files[1]}, and it is not"):
        tensors(folder)
    write(index, {"weight_map": weight_map | {"lost": files[1]}})
    with pytest.raises(ModelFolderError, match=r"lost is in model-00002.*fetch both again"):
        tensors(folder)
    write(index, {"weight_map": weight_map | {"x": "model-00003-of-00003.safetensors"}})
    with pytest.raises(ModelFolderError, match=r"names model-00003.*not in the folder: fetch"):
        tensors(folder)


def test_one_whole_file_comes_before_an_index_as_in_transformers(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    write(folder / "model.safetensors.index.json", {"weight_map": {"a": "gone.safetensors"}})
    assert tensors(folder).keys() == random_weights(TINY_LLAMA).keys()


def test_progress_goes_up_to_the_end(tmp_path: Path) -> None:
    progress: list[float] = []
    open_model(shard(write_tiny_llama(tmp_path / "tiny"))).tensors(progress.append)
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert 0 < progress[0] < 1


def test_the_size_on_disk_is_that_of_all_weight_files(tmp_path: Path) -> None:
    folder = shard(write_tiny_llama(tmp_path / "tiny"))
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert open_model(folder).weight_bytes == sum(sizes)


# --- tokenizer -----------------------------------------------------------------------------------


def test_special_tokens_come_from_the_file_transformers_takes_them_from(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path / "tiny")
    write(folder / "special_tokens_map.json", {"eos_token": "<|end|>", "pad_token": "<|user|>"})
    settings = open_model(folder).tokenizer.settings
    assert (settings["eos_token"], settings["pad_token"]) == ("<|end|>", "<|user|>")
    assert settings["bos_token"] == "<|endoftext|>"
    newer = {"eos_token": "<|endoftext|>", "added_tokens_decoder": {}}
    write(folder / "tokenizer_config.json", newer)
    assert open_model(folder).tokenizer.settings == newer


def test_special_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = write_text_folder(tmp_path / "tiny", chat=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    for name, extra in (("older", {}), ("newer", {"added_tokens_decoder": {}})):
        write(folder / "special_tokens_map.json", {"eos_token": "<|end|>"})
        write(folder / "tokenizer_config.json", config | extra)
        theirs = transformers.AutoTokenizer.from_pretrained(folder).eos_token
        assert open_model(folder).tokenizer.settings["eos_token"] == theirs, name


def test_errors_say_where_the_tokenizer_came_from(tmp_path: Path) -> None:
    assert open_model(write_text_folder(tmp_path / "tiny")).tokenizer.where == "tiny/tokenizer.json"


# --- chat templates ------------------------------------------------------------------------------


def templates(folder: Path) -> dict[str, str]:
    return dict(open_model(folder).chat_templates)


def test_no_template_one_and_a_list_of_named_ones(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path / "tiny", chat=False)
    assert templates(folder) == {}
    write(folder / "tokenizer_config.json", {"chat_template": CHAT_TEMPLATE})
    assert templates(folder) == {"default": CHAT_TEMPLATE}
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    write(folder / "tokenizer_config.json", {"chat_template": named})
    assert templates(folder) == {"default": "a", "tool_use": "b"}


def test_template_files_win_over_the_settings(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text("é")
    assert templates(folder) == {"default": "é"}
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert templates(folder) == {"default": "é", "tool_use": "tools"}


@pytest.mark.parametrize("value", [3, ["a"], [{"name": "a"}], [{"name": 1, "template": "x"}], {}])
def test_templates_of_another_shape_are_refused_by_key(tmp_path: Path, value: Any) -> None:
    folder = write_text_folder(tmp_path / "tiny", chat=False)
    write(folder / "tokenizer_config.json", {"chat_template": value})
    if value == {}:  # nothing in it
        assert templates(folder) == {}
        return
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json: chat_template"):
        templates(folder)


# --- quality -------------------------------------------------------------------------------------


def test_what_a_format_costs_is_read_where_it_is_documented(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path / "tiny")
    assert read_quality_loss(open_model(folder), "int8") is None
    documented = {"int8": {"loss": {"full": 1, "int8": 1.25}}}
    write(folder / "quality.json", documented)
    assert read_quality_loss(open_model(folder), "int8") == documented["int8"]
    assert read_quality_loss(open_model(folder), "int4") is None
    write(folder / "quality.json", {"int8": {"loss": {"full": 1}}})
    with pytest.raises(ModelFolderError, match=r"tiny/quality\.json"):
        read_quality_loss(open_model(folder), "int8")
