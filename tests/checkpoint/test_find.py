"""Which models the settings name; one bad folder among searched ones stops no other."""

from pathlib import Path

import pytest

from shoal.checkpoint.find import ModelSelection, find_models
from shoal.errors import ConfigError, ModelFolderError
from shoal.protocol.messages import ModelSource


def model_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def bad_folder(parent: Path, name: str) -> Path:
    folder = model_folder(parent, name)
    (folder / "config.json").rename(folder / "adapter_config.json")
    return folder


def named(*models: str, default_model: str | None = None) -> ModelSelection:
    return find_models(models, None, default_model)


def searched(folder: Path, default_model: str | None = None) -> ModelSelection:
    return find_models((), folder, default_model)


# --- named ---------------------------------------------------------------------------------------


def test_named_folders_are_taken_in_order_and_may_get_names(tmp_path: Path) -> None:
    b, a = model_folder(tmp_path, "b"), model_folder(tmp_path, "a")
    selection = named(str(b), f"other={a}")
    assert selection.sources == (ModelSource("b", str(b)), ModelSource("other", str(a)))
    assert not any(source.may_fail for source in selection.sources)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    a, b = model_folder(tmp_path / "x", "m"), model_folder(tmp_path / "y", "m")
    with pytest.raises(ConfigError, match="two models are named m"):
        named(str(a), str(b))


def test_a_bad_folder_that_is_named_ends_the_start(tmp_path: Path) -> None:
    good, bad = model_folder(tmp_path, "good"), bad_folder(tmp_path, "bad")
    with pytest.raises(ModelFolderError, match="bad is an adapter"):
        named(str(good), str(bad))


def test_a_default_model_must_be_one_of_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="default_model x is none of a"):
        named(str(model_folder(tmp_path, "a")), default_model="x")


def test_a_path_may_hold_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "lr=0.1", "small")
    assert named(str(folder)).sources == (ModelSource("small", str(folder)),)
    assert named(f"m={folder}").sources == (ModelSource("m", str(folder)),)
    assert named(f"org/m={folder}").sources == (ModelSource("org/m", str(folder)),)
    monkeypatch.chdir(tmp_path)
    assert named("lr=0.1/small").sources == (ModelSource("small", "lr=0.1/small"),)
    with pytest.raises(ModelFolderError, match=r"/lr=0\.1/gone does not exist"):
        named(f"{tmp_path}/lr=0.1/gone")


# --- searched ------------------------------------------------------------------------------------


def test_every_model_of_models_dir_is_taken_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b", "a"):
        model_folder(tmp_path, name)
    (tmp_path / "recipes" / "a").mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("x")
    selection = searched(tmp_path)
    assert [source.name for source in selection.sources] == ["a", "b"]
    assert all(source.may_fail for source in selection.sources)
    assert selection.failed == {}


def test_a_bad_one_among_them_is_told_and_stops_no_other(tmp_path: Path) -> None:
    model_folder(tmp_path, "good")
    bad_folder(tmp_path, "bad")
    (tmp_path / "large.gguf").write_bytes(b"GG")
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    selection = searched(tmp_path)
    assert [source.name for source in selection.sources] == ["good", "small"]
    assert "bad is an adapter" in selection.failed["bad"]
    assert "large.gguf does not begin as a GGUF file does" in selection.failed["large"]


def test_a_gguf_file_is_named_without_its_ending(tmp_path: Path) -> None:
    (tmp_path / "small-1.5.gguf").write_bytes(b"GGUF")
    path = str(tmp_path / "small-1.5.gguf")
    assert named(path, f"other={path}").sources == (
        ModelSource("small-1.5", path),
        ModelSource("other", path),
    )


def test_when_all_are_bad_the_start_ends_with_a_reason(tmp_path: Path) -> None:
    bad_folder(tmp_path, "bad")
    with pytest.raises(ModelFolderError, match="bad is an adapter"):
        searched(tmp_path)


def test_the_default_model_must_load(tmp_path: Path) -> None:
    model_folder(tmp_path, "good")
    bad_folder(tmp_path, "bad")
    with pytest.raises(ModelFolderError, match="bad is an adapter"):
        searched(tmp_path, "bad")
    (source,) = searched(tmp_path, "good").sources
    assert not source.may_fail


def test_a_folder_of_no_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model folder found"):
        searched(tmp_path)


def test_a_models_dir_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="models_dir"):
        searched(tmp_path / "nowhere")
