"""What is read from a model folder: end and start tokens, template, defaults; damage is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import ModelFolderError
from shoal.protocol.messages import ModelSource
from shoal.text.text_model import TextModel, load_text_model
from tests.fakes.text_folder import CHAT_TEMPLATE, END_ID, write_text_folder
from tests.unit.text.building import STORIES, needs_stories


def load(folder: Path) -> TextModel:
    return load_text_model(ModelSource("tiny", str(folder)))


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value))


def test_tokens_template_and_defaults_are_read(tmp_path: Path) -> None:
    model = load(write_text_folder(tmp_path, temperature=0.7, top_k=40, unheard_of=3))
    assert model.end_token_ids == (END_ID,)
    assert model.start_token_id == END_ID
    assert model.chat.source == CHAT_TEMPLATE
    assert model.defaults == {"temperature": 0.7, "top_k": 40}


def test_a_model_that_does_not_sample_is_greedy_by_default(tmp_path: Path) -> None:
    model = load(write_text_folder(tmp_path, do_sample=False, temperature=0.7))
    assert model.defaults == {"temperature": 0.0}


def test_several_end_tokens_are_taken(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path)
    write(folder, "generation_config.json", {"eos_token_id": [END_ID, 260]})
    assert load(folder).end_token_ids == (END_ID, 260)


def test_the_tokenizers_end_token_is_used_when_no_config_names_one(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path)
    write(folder, "config.json", {})
    (folder / "generation_config.json").unlink()
    assert load(folder).end_token_ids == (END_ID,)


def test_a_template_file_wins_over_the_one_in_the_tokenizers_config(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path)
    (folder / "chat_template.jinja").write_text("own")
    assert load(folder).chat.source == "own"


def test_token_names_may_be_objects(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path)
    write(folder, "tokenizer_config.json", {"eos_token": {"content": "<|end|>"}})
    model = load(folder)
    assert (model.eos_token, model.bos_token, model.chat.source) == ("<|end|>", None, None)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    folder = write_text_folder(tmp_path)
    (folder / name).write_text(content)
    with pytest.raises(ModelFolderError, match=name):
        load(folder)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    folder = write_text_folder(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"config\.json"):
        load(folder)


@needs_stories
def test_a_real_folder_is_read() -> None:
    model = load_text_model(ModelSource("stories", str(STORIES)))
    assert model.end_token_ids == (2,)
    assert model.start_token_id == 1
    assert model.chat.source is None
    assert model.tokenizer.encode("") == [1]
