"""What a model's files say about generating, held to the limits of a request."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.server.api.generation.fields import GenerationFields
from shoal.text.model_defaults import SAMPLING_LIMITS, ModelDefaults, read_defaults
from shoal.text.tokenizer import Tokenizer
from tests.fakes.text_folder import END_ID, VOCAB_SIZE, write_text_folder

VALUES = (-2, -1, -0.5, -1e-9, 0, 1e-9, 0.5, 1, 1.5, 2, 2.0001, 7, 10, 10.1, 50, 50.0, 2**31,
          math.nan, math.inf, -math.inf, True, False, "1", [1], {})  # fmt: skip


def read(folder: Path, **generation: Any) -> ModelDefaults:
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return read_files(folder)


def read_files(folder: Path) -> ModelDefaults:
    files = open_model(folder)
    return read_defaults(files, Tokenizer(files.tokenizer))


def set_config(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Its three files name the same end and start."""
    return write_text_folder(tmp_path / "tiny")


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLING_LIMITS)
def test_a_default_may_be_what_a_request_may_say(folder: Path, name: str) -> None:
    assert name in GenerationFields.model_fields
    num_accepted = 0
    for value in VALUES:
        try:
            GenerationFields(**{name: value})
            accepted = value <= 2**31 - 1
        except ValidationError:
            accepted = False
        num_accepted += accepted
        if accepted:
            assert read(folder, **{name: value}).sampling == {name: value}
        else:
            with pytest.raises(ModelFolderError, match=rf"tiny/generation_config\.json: {name} "):
                read(folder, **{name: value})
    assert 0 < num_accepted < len(VALUES)


def test_null_is_not_given(folder: Path) -> None:
    defaults = read(
        folder, temperature=None, top_k=None, eos_token_id=END_ID, no_repeat_ngram_size=None
    )
    assert defaults.sampling == {}
    assert defaults.remarks == ()


def test_a_model_that_does_not_sample_keeps_its_penalty(folder: Path) -> None:
    defaults = read(folder, do_sample=False, temperature=0.7, repetition_penalty=1.5)
    assert defaults.sampling == {"temperature": 0.0, "repetition_penalty": 1.5}
    with pytest.raises(ModelFolderError, match=r"do_sample must be true or false; it is 'no'"):
        read(folder, do_sample="no")


def test_older_folders_keep_the_settings_in_the_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    set_config(folder, temperature=0.5, do_sample=True, num_beams=4, hidden_size=3)
    defaults = read_files(folder)
    assert defaults.sampling == {"temperature": 0.5}
    assert defaults.remarks == (
        "tiny/config.json asks for what Shoal does not offer; left out: num_beams",
    )
    set_config(folder, top_p=3)
    with pytest.raises(ModelFolderError, match=r"tiny/config\.json: top_p must be a number"):
        read_files(folder)
    assert read(folder, temperature=0.25).sampling == {"temperature": 0.25}


@pytest.mark.parametrize(
    ("name", "value", "neutral"),
    [
        ("num_beams", 4, 1),
        ("no_repeat_ngram_size", 3, 0),
        ("bad_words_ids", [[3]], []),
        ("suppress_tokens", [7], []),
        ("begin_suppress_tokens", [7], None),
        ("forced_bos_token_id", 1, None),
        ("forced_eos_token_id", 1, None),
        ("guidance_scale", 1.5, 1),
        ("stop_strings", ["a"], []),
        ("a_setting_of_tomorrow", 1, None),
    ],
)
def test_what_is_not_offered_is_named_unless_it_asks_for_nothing(
    folder: Path, name: str, value: Any, neutral: Any
) -> None:
    (remark,) = read(folder, **{name: value}).remarks
    assert remark.endswith(f"left out: {name}")
    assert read(folder, **{name: neutral}).remarks == ()


def test_how_long_an_answer_may_be_is_a_matter_of_the_request(folder: Path) -> None:
    assert read(folder, max_new_tokens=100, max_length=20).remarks == ()


# --- ids -----------------------------------------------------------------------------------------


def test_end_ids_are_those_of_all_three_files(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    set_config(folder, eos_token_id=END_ID)
    defaults = read(folder, eos_token_id=[258, END_ID])
    assert set(defaults.end_token_ids) == {END_ID, 258, 260}
    assert len(defaults.end_token_ids) == 3


@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id"])
@pytest.mark.parametrize("beyond", [VOCAB_SIZE, 128009, -2, 1 << 40])
def test_an_id_that_the_tokenizer_lacks_is_refused(folder: Path, beyond: int, key: str) -> None:
    rule = rf"tiny/generation_config\.json: {key} must be of the tokenizer's {VOCAB_SIZE} ids"
    with pytest.raises(ModelFolderError, match=rule):
        read(folder, **{key: [END_ID, beyond]})


@pytest.mark.parametrize("beyond", [-2, 1 << 40])
def test_an_id_that_no_vocabulary_has_is_refused_in_a_config_too(folder: Path, beyond: int) -> None:
    set_config(folder, eos_token_id=beyond)
    with pytest.raises(ModelFolderError, match=r"tiny/config\.json: eos_token_id must be of"):
        read(folder)


@pytest.mark.parametrize("beyond", [VOCAB_SIZE, 128009, -1])
def test_an_id_that_a_config_has_by_default_is_left_out_and_told(folder: Path, beyond: int) -> None:
    defaults = read(folder, eos_token_id=[END_ID, beyond], _from_model_config=True)
    assert defaults.end_token_ids == (END_ID,)
    (remark,) = defaults.remarks
    assert f"eos_token_id {beyond} (tiny/generation_config.json)" in remark


def test_a_model_without_an_end_is_told(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    set_config(folder, eos_token_id=50256, bos_token_id=50256)
    defaults = read(folder)
    assert (defaults.end_token_ids, defaults.start_token_id) == ((), None)
    told = " ".join(defaults.remarks)
    assert "eos_token_id 50256" in told
    assert "bos_token_id 50256" in told
    assert "ends at max_tokens" in told


@pytest.mark.parametrize("value", [True, 1.0, "2", {"id": 2}, [2, "3"], [[2]]])
@pytest.mark.parametrize("key", ["eos_token_id", "bos_token_id"])
def test_an_id_that_is_none_is_refused_by_file_and_key(folder: Path, key: str, value: Any) -> None:
    with pytest.raises(ModelFolderError, match=rf"tiny/generation_config\.json: {key} must be"):
        read(folder, **{key: value})
    (folder / "generation_config.json").unlink()
    set_config(folder, **{key: value})
    with pytest.raises(ModelFolderError, match=rf"tiny/config\.json: {key} must be"):
        read_files(folder)


def test_an_empty_prompt_starts_with_bos_else_with_an_end(folder: Path) -> None:
    assert read(folder).start_token_id == END_ID
    (folder / "tokenizer_config.json").unlink()
    set_config(folder, bos_token_id=257, eos_token_id=258)
    assert read(folder).start_token_id == 257
    assert read(folder, bos_token_id=259).start_token_id == 259
    set_config(folder, eos_token_id=258)
    assert read(folder).start_token_id == 258
