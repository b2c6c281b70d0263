"""`shoal models --add` and `--remove`."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.cli import build_app
from shoal.commands import models
from shoal.commands.added_models import NOTES
from tests.fakes.tiny_models import write_tiny_llama

pytest.importorskip("torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny")


def run(folder: Path, *flags: str) -> Result:
    return CliRunner().invoke(
        build_app(with_serve_flags=False), ["models", "--dir", str(folder), *flags]
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_model_is_linked_served_from_there_and_taken_away_again(
    folder: Path, model: Path
) -> None:
    added = run(folder, "--add", f"mine={model}")
    assert added.exit_code == 0, added.stderr
    assert f"linked as {folder / 'mine'}" in added.stdout
    assert (folder / "mine").readlink() == model
    assert "mine" in run(folder, "--json").stdout
    removed = run(folder, "--remove", "mine")
    assert (removed.exit_code, names(folder)) == (0, set())
    assert model.is_dir()


def test_a_copy_stands_by_itself_and_is_not_removed(folder: Path, model: Path) -> None:
    assert run(folder, "--add", str(model), "--copy").exit_code == 0
    shutil.rmtree(model)
    assert run(folder).exit_code == 0
    refused = run(folder, "--remove", "tiny")
    assert refused.exit_code == 2
    assert "no link that --add made" in refused.stderr
    assert names(folder) == {"tiny"}


def test_only_links_of_its_own_are_removed(folder: Path, model: Path, tmp_path: Path) -> None:
    (folder / "by-hand").symlink_to(model)
    assert run(folder, "--remove", "by-hand").exit_code == 2
    run(folder, "--add", str(model))
    (folder / "tiny").unlink()
    (folder / "tiny").symlink_to(tmp_path)  # by somebody else
    assert run(folder, "--remove", "tiny").stdout == ""
    assert names(folder) == {"by-hand", "tiny"}


def test_what_cannot_be_added_is_told_and_nothing_is_written(folder: Path, model: Path) -> None:
    assert run(folder, "--add", str(model)).exit_code == 0
    before = names(folder)
    damaged = shutil.copytree(model, model.with_name("damaged"))
    next(damaged.glob("*.safetensors")).write_bytes(b"nothing")
    for entry, exit_code, words in (
        (str(model), 2, "is there already"),
        ("/no/such", 2, "does not exist"),
        (f"a,b={model}", 2, "one name"),
        (f"a/b={model}", 2, "has no slash"),
        (str(folder / "tiny"), 2, "where `shoal serve` looks already"),
        (str(damaged), 1, "cannot be served"),
    ):
        result = run(folder, "--add", entry)
        assert (result.exit_code, words in result.stderr) == (exit_code, True), result.stderr
        assert names(folder) == before


def test_notes_of_another_form_are_refused(folder: Path, model: Path) -> None:
    for notes in ("{", "[]", '{"../x": "y"}', '{"x": 1}'):
        (folder / NOTES).write_text(notes)
        for flags in (("--add", str(model)), ("--remove", "x")):
            result = run(folder, *flags)
            assert result.exit_code == 2
            assert NOTES in result.stderr
        assert names(folder) == {NOTES}


def test_a_name_of_the_catalogue_is_pulled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(models, "pull", lambda names, into: asked.append((names, into)))
    assert run(folder, "--add", "smollm2").exit_code == 0
    assert asked == [(["smollm2"], folder)]


def test_flags_that_do_not_go_together_are_refused(folder: Path) -> None:
    assert "--copy goes with --add" in run(folder, "--copy").stderr
    assert "not both" in run(folder, "--add", "x", "--remove", "y").stderr


def test_what_lies_beside_shoal_needs_no_link(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoal.checkpoint.catalogue.beside_code", lambda: model.parent / "shoal")
    shutil.copytree(model, model.parent / "shoal" / "own")
    monkeypatch.chdir(tmp_path)
    for entry, exit_code, words in (
        ("own", 2, "is where `shoal serve` looks already"),
        (str(model), 0, "linked as models/tiny"),
    ):
        done = CliRunner().invoke(build_app(with_serve_flags=False), ["models", "--add", entry])
        assert done.exit_code == exit_code, done.output
        assert words in done.output
    assert names(folder) == {NOTES, "tiny"}
