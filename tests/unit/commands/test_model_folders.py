"""What is read from model folders, whole and damaged, and `shoal models`."""

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.cli import build_app
from shoal.commands.model_folders import check_lock, find_folders, read_folder

from .fake_openai import FakeServer, running


def make_folder(root: Path, name: str = "tiny", lock: bool = True) -> Path:
    folder = root / name
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]},
            "b": {"dtype": "F32", "shape": [5], "data_offsets": [24, 44]},
        }
    ).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(44)
    (folder / "model.safetensors").write_bytes(weights)
    if lock:
        files = {
            file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in folder.iterdir()
        }
        (folder / "lock.json").write_text(json.dumps({"files": files}))
    return folder


def test_a_whole_folder_is_described_and_verified(tmp_path: Path) -> None:
    model = read_folder(make_folder(tmp_path))
    assert (model.name, model.num_parameters, model.dtypes) == ("tiny", 17, ("BF16", "F32"))
    assert (model.max_model_len, model.lock, model.problems) == (64, "verified", ())


def test_a_folder_without_a_lock_is_fine_but_not_verified(tmp_path: Path) -> None:
    model = read_folder(make_folder(tmp_path, lock=False))
    assert (model.lock, model.problems) == ("none", ())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_one_changed_byte_is_found(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + b" ")
    assert check_lock(folder) == ("damaged", [f"{name} is not the locked file"])


def test_a_locked_file_that_is_gone_is_found(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "tokenizer.json").unlink()
    assert read_folder(folder).problems == ("no tokenizer.json", "tokenizer.json is missing")


def test_a_lock_never_reaches_outside_its_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, lock=False)
    (folder / "lock.json").write_text('{"files": {"../secret": {}}}')
    assert check_lock(folder)[0] == "damaged"


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, (9).to_bytes(8, "little") + b"{}"])
def test_weights_that_are_no_safetensors_are_a_problem_not_a_crash(
    tmp_path: Path, content: bytes
) -> None:
    folder = make_folder(tmp_path, lock=False)
    (folder / "model.safetensors").write_bytes(content)
    (problem,) = read_folder(folder).problems
    assert problem.startswith("model.safetensors: ")


def test_folders_are_found_inside_and_at_the_root_itself(tmp_path: Path) -> None:
    folders = [make_folder(tmp_path, name) for name in ("b", "a")]
    (tmp_path / "empty").mkdir()
    assert find_folders(tmp_path) == sorted(folders)
    assert find_folders(folders[0]) == [folders[0]]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(build_app(), ["models", *args])


def test_models_of_a_folder_as_table_and_json(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert "✓ verified" in invoke("--dir", str(tmp_path)).stdout
    (model,) = json.loads(invoke("--dir", str(tmp_path), "--json").stdout)
    assert (model["name"], model["lock"]) == ("tiny", "verified")


def test_a_damaged_model_makes_the_exit_code_1(tmp_path: Path) -> None:
    (make_folder(tmp_path) / "config.json").write_text("{}")
    result = invoke("--dir", str(tmp_path))
    assert result.exit_code == 1
    assert "✗ damaged" in result.stdout


def test_models_of_a_server_as_table_and_json() -> None:
    with running(FakeServer()) as server:
        table = invoke("--base-url", server.url).stdout
        (model,) = json.loads(invoke("--base-url", server.url, "--json").stdout)
    assert "tiny-a" in table
    assert "512" in table
    assert model["id"] == "tiny-a"
