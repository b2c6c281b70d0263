"""lock.json: a model whose files are not the locked ones is refused by the file's name."""

from pathlib import Path

import pytest

from shoal.checkpoint.lock import locked_names, verify_lock
from shoal.checkpoint.lock import write_lock as write_own_lock
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from tests.fakes.tiny_models import write_lock, write_tiny_llama


def load(folder: Path) -> str:
    """Reads the weights; returns their hash."""
    files = open_model(folder)
    files.tensors(lambda progress: None)
    return files.weights_hash


def test_a_locked_folder_loads_and_gives_the_same_hash_as_without_a_lock(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    unlocked = load(folder)
    write_lock(folder)
    assert load(folder) == unlocked


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json",
                                  "tokenizer_config.json", "generation_config.json"])  # fmt: skip
def test_one_changed_byte_in_any_locked_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    raw = bytearray((folder / name).read_bytes())
    # A space for a space's neighbour: the file still reads well, only the lock can tell.
    place = len(raw) - 1 if name.endswith("safetensors") else raw.index(b" ")
    raw[place] = raw[place] ^ 1 if name.endswith("safetensors") else ord("\n")
    (folder / name).write_bytes(raw)
    with pytest.raises(ModelFolderError, match=f"{name} differs from lock"):
        load(folder)


def test_a_file_in_use_that_is_not_locked_or_a_locked_one_that_is_gone_is_refused(
    tmp_path: Path,
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelFolderError, match=r"chat_template\.jinja is not in lock"):
        load(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "notes.txt").write_text("the model does not use this")
    load(folder)
    (folder / "generation_config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"generation_config\.json is in lock\.json but"):
        load(folder)


@pytest.mark.parametrize(
    "lock",
    [
        "",
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"config.json": 3}}',
        '{"files": {"config.json": {"sha256": "x"}}}',
        '{"files": {"../x": {"sha256": "", "bytes": 1}}}',
    ],
)
def test_a_broken_lock_refuses_to_start(tmp_path: Path, lock: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "lock.json").write_text(lock)
    with pytest.raises(ModelFolderError, match="lock"):
        load(folder)


def test_the_files_say_whether_they_are_locked(tmp_path: Path) -> None:
    assert not open_model(write_tiny_llama(tmp_path / "a")).is_locked
    assert open_model(write_tiny_llama(tmp_path / "b", lock=True)).is_locked


def test_templates_of_a_folder_inside_are_locked_too(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    with pytest.raises(ModelFolderError, match=r"tool_use\.jinja is not in lock"):
        load(folder)


def test_a_pointer_in_place_of_a_locked_file_is_called_one(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelFolderError, match="git lfs pull"):
        load(folder)


def test_a_written_lock_names_all_files_but_the_card_and_hidden_ones(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "inner").mkdir()
    for name in ("MODEL.md", ".hidden", "inner/more.jinja"):
        (folder / name).write_text(name)
    assert locked_names(folder) is None
    write_own_lock(folder)
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
             "tokenizer_config.json", "inner/more.jinja"}  # fmt: skip
    assert locked_names(folder) == names
    verify_lock(folder, [folder / name for name in names])
    write_own_lock(folder)  # over itself
    assert locked_names(folder) == names
