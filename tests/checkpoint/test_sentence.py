"""Files of sentence-transformers beside a network: how a vector is made, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shoal.checkpoint.hf import HuggingFaceFolder
from shoal.checkpoint.lock import write_lock
from shoal.checkpoint.sentence import read_sentence_files
from shoal.errors import ModelFolderError
from tests.fakes.tiny_encoders import write_sentence_files
from tests.fakes.tiny_models import write_tiny_model

MEAN = {"pooling_mode_mean_tokens": True}


def test_a_folder_without_modules_says_nothing(tmp_path: Path) -> None:
    assert read_sentence_files(tmp_path) is None
    assert HuggingFaceFolder(tmp_path).embedding is None


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        (MEAN, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "mean", "embedding_dimension": 48}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "first"),
    ],
)
def test_the_way_of_pooling_is_read(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    write_sentence_files(tmp_path, pooling=config)
    found = read_sentence_files(tmp_path)
    assert found is not None
    assert found.pooling == pooling
    assert found.remarks == ()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("package", ["sentence_transformers.models", "sentence_transformers.x.y"])
def test_steps_are_known_by_the_names_of_their_classes(
    tmp_path: Path, package: str, normalize: bool
) -> None:
    modules = ("Transformer", "Pooling", "Normalize")[: 3 if normalize else 2]
    write_sentence_files(tmp_path, modules=modules)
    path = tmp_path / "modules.json"
    path.write_text(path.read_text().replace("sentence_transformers.models", package))
    found = read_sentence_files(tmp_path)
    assert found is not None
    assert found.normalized == normalize


def test_sizes_and_limits_are_read(tmp_path: Path) -> None:
    write_sentence_files(
        tmp_path,
        pooling=MEAN | {"word_embedding_dimension": 48},
        transformer={"max_seq_length": 77, "do_lower_case": False},
    )
    found = read_sentence_files(tmp_path)
    assert found is not None
    assert (found.size, found.max_tokens) == (48, 77)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": null}')
    unbounded = read_sentence_files(tmp_path)
    assert unbounded is not None
    assert unbounded.max_tokens is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens must be left out or false"),
        ({"pooling_mode_weightedmean_tokens": True}, "pooling_mode_weightedmean_tokens must be"),
        (
            {"pooling_mode_mean_sqrt_len_tokens": True},
            "pooling_mode_mean_sqrt_len_tokens must be left out or false",
        ),
        (MEAN | {"pooling_mode_cls_token": True}, "must be one way of pooling: Shoal pools by cls"),
        (MEAN | {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens must be one way of"),
        ({}, "pooling_mode_mean_tokens must be one way of pooling"),
        ({"pooling_mode": "max"}, "pooling_mode must be left out or false"),
        ({"pooling_mode": ["cls", "mean"]}, "pooling_mode must be one way of pooling"),
        ({"pooling_mode": 5}, "pooling_mode must be left out or false"),
        ({"pooling_mode": [{}]}, "pooling_mode must be left out or false"),
        ({"pooling_mode_mean_tokens": "yes"}, "pooling_mode_mean_tokens must be true or false"),
        (MEAN | {"word_embedding_dimension": -1}, "word_embedding_dimension must be"),
        (MEAN | {"include_prompt": 3}, "include_prompt must be true or false"),
    ],
)
def test_other_ways_of_pooling_are_refused_by_name(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    write_sentence_files(tmp_path, pooling=config)
    with pytest.raises(ModelFolderError, match=words) as caught:
        read_sentence_files(tmp_path)
    assert "1_Pooling/config.json" in caught.value.message


@pytest.mark.parametrize(
    "modules",
    [
        ("Transformer", "Pooling", "Dense", "Normalize"),
        ("Transformer", "Pooling", "Dense"),
        ("Transformer",),
        ("WordEmbeddings", "Pooling"),
        (),
    ],
)
def test_other_steps_are_refused_by_name(tmp_path: Path, modules: tuple[str, ...]) -> None:
    write_sentence_files(tmp_path, modules=modules)
    words = ", ".join(modules) or "nothing"
    with pytest.raises(ModelFolderError, match=rf"modules\.json lists {words}: Shoal makes"):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "must be a list|lists nothing"),
        ("[1]", "must be a list of objects"),
        ('[{"path": ""}]', "must be a list of objects with type and path"),
        ('[{"type": "a.Transformer", "path": 5}]', "must be a list of objects"),
        ("[" * 5000, "must be a list of objects"),
        ("nothing", "must be a list of objects"),
    ],
)
def test_modules_that_are_none_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(ModelFolderError, match=words):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", "a/b", "", ".."])
def test_a_step_outside_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    write_sentence_files(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["path"] = path
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelFolderError, match="names a folder outside the model's"):
        read_sentence_files(tmp_path)


def test_a_network_in_a_folder_of_its_own_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_sentence_files(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelFolderError, match="the network lies in 0_Transformer: move its files"):
        read_sentence_files(tmp_path)


def test_a_missing_config_of_a_step_is_named(tmp_path: Path) -> None:
    write_sentence_files(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"1_Pooling/config\.json cannot be read"):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize(
    ("transformer", "settings", "words"),
    [
        ({"do_lower_case": True}, None, "do_lower_case must be false: Shoal leaves the case"),
        ({"max_seq_length": 0}, None, "max_seq_length must be a whole number"),
        (None, {"model_type": "SparseEncoder"}, "model_type must be SentenceTransformer"),
        (None, {"prompts": 5}, "prompts must be an object"),
    ],
)
def test_what_would_change_a_vector_is_refused_by_name(
    tmp_path: Path, transformer: Any, settings: Any, words: str
) -> None:
    write_sentence_files(tmp_path, transformer=transformer, settings=settings)
    with pytest.raises(ModelFolderError, match=words):
        read_sentence_files(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"__version__": {"pytorch": "2"}, "similarity_fn_name": "cosine"}, None),
        ({"prompts": {"query": "", "document": ""}, "default_prompt_name": None}, None),
        (
            {"prompts": {"query": "query: ", "document": ""}},
            r"names prompts \(query\), which are not put in front",
        ),
        (
            {"prompts": {"query": "query: "}, "default_prompt_name": "query"},
            r"names prompts \(query; query in front of every text\), which are not",
        ),
        ({"made_up": 1}, r"config_sentence_transformers\.json that are not used: made_up"),
    ],
)
def test_what_is_left_to_callers_is_named(
    tmp_path: Path, settings: dict[str, Any], words: str | None
) -> None:
    write_sentence_files(tmp_path, settings=settings)
    found = read_sentence_files(tmp_path)
    assert found is not None
    assert len(found.remarks) == (words is not None)
    assert all(words and re.search(words, remark) for remark in found.remarks)


def test_unknown_keys_of_each_file_are_named(tmp_path: Path) -> None:
    write_sentence_files(
        tmp_path, pooling=MEAN | {"of_pooling": 1}, transformer={"of_transformer": 1}
    )
    found = read_sentence_files(tmp_path)
    assert found is not None
    assert [remark.rpartition(": ")[2] for remark in found.remarks] == [
        "of_transformer",
        "of_pooling",
    ]


def test_the_files_are_locked_with_the_others(tmp_path: Path) -> None:
    write_tiny_model(tmp_path)
    write_lock(tmp_path)
    write_sentence_files(tmp_path)
    with pytest.raises(ModelFolderError, match=r"modules\.json is not in lock\.json"):
        HuggingFaceFolder(tmp_path).tensors(lambda share: None)
    write_lock(tmp_path)
    assert HuggingFaceFolder(tmp_path).is_locked
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(MEAN | {"a": 1}))
    with pytest.raises(ModelFolderError, match=r"1_Pooling/config\.json differs from lock\.json"):
        HuggingFaceFolder(tmp_path).tensors(lambda share: None)
