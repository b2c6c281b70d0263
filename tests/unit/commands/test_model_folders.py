"""What is read from model folders, whole and damaged, and `shoal models`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.cli import build_app
from shoal.commands.model_folders import ModelFolder, find_folders, read_folder
from shoal.protocol.messages import ModelSource
from tests.fakes.tiny_encoders import write_encoder
from tests.fakes.tiny_models import write_tiny_llama

from .fake_openai import FakeServer, running


def read(folder: Path) -> ModelFolder:
    return read_folder(ModelSource(folder.name, str(folder)))


def test_a_whole_folder_is_described_and_verified(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype="bfloat16", lock=True)
    model = read(folder)
    assert (model.name, model.architecture, model.dtypes) == ("tiny", "LlamaForCausalLM", ("BF16",))
    assert model.num_parameters > 10_000
    assert model.num_bytes == (folder / "model.safetensors").stat().st_size
    assert (model.max_model_len, model.lock) == (256, "verified")
    assert (model.problems, model.remarks) == ((), ())


def test_a_folder_without_a_lock_is_fine_but_not_verified(tmp_path: Path) -> None:
    model = read(write_tiny_llama(tmp_path / "tiny"))
    assert (model.lock, model.problems) == ("none", ())


def test_a_gguf_file_beside_model_folders_does_not_hide_them(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert find_folders(tmp_path) == [folder, tmp_path / "x.gguf"]
    (folder / "x.gguf").write_bytes(b"GGUF")
    assert find_folders(folder) == [folder]


def test_a_file_that_is_not_the_locked_one_is_a_problem(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    model = read(folder)
    assert model.lock == "damaged"
    assert model.problems == (
        "tiny/tokenizer.json differs from lock.json: restore the file or remake the lock",
    )


def test_every_side_tells_its_own_problem_once(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").write_bytes(b"\xff" * 20)
    no_tokenizer, no_weights = read(folder).problems
    assert "no tokenizer.json" in no_tokenizer
    assert "tiny/model.safetensors: header length" in no_weights


def test_what_is_left_out_is_a_remark(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "generation_config.json").write_text('{"num_beams": 4}')
    (remark,) = read(folder).remarks
    assert "num_beams" in remark


@pytest.mark.parametrize("writes", [True, False])
def test_only_a_model_that_writes_text_lacks_an_end_token(tmp_path: Path, writes: bool) -> None:
    pytest.importorskip("transformers")
    folder = tmp_path / "tiny"
    if writes:
        write_tiny_llama(folder)
    else:
        write_encoder(folder, files=True)
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config.pop("eos_token_id", None)
    (folder / "config.json").write_text(json.dumps(config))
    found = read(folder)
    assert found.problems == ()
    assert any("names no end token" in remark for remark in found.remarks) == writes


def test_what_is_no_model_has_one_problem(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (problem,) = read(tmp_path / "x.gguf").problems
    assert "GGUF" in problem


def test_folders_are_found_inside_and_at_the_root_itself(tmp_path: Path) -> None:
    folders = [write_tiny_llama(tmp_path / name) for name in ("b", "a")]
    (tmp_path / "empty").mkdir()
    assert find_folders(tmp_path) == sorted(folders)
    assert find_folders(folders[0]) == [folders[0]]


def invoke(*args: str) -> Result:
    return CliRunner().invoke(build_app(), ["models", *args])


def test_models_of_a_folder_as_table_and_json(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny", lock=True)
    assert "✓ verified" in invoke("--dir", str(tmp_path)).stdout
    (model,) = json.loads(invoke("--dir", str(tmp_path), "--json").stdout)
    assert (model["name"], model["lock"], model["problems"]) == ("tiny", "verified", [])


def damage_lock(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def turn_into_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "words"),
    [(damage_lock, "differs from lock.json"), (turn_into_adapter, "bad is an adapter")],
)
def test_a_bad_model_is_listed_with_its_reason_and_makes_the_exit_code_1(
    tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    write_tiny_llama(tmp_path / "good")
    damage(write_tiny_llama(tmp_path / "bad", lock=True))
    result = invoke("--dir", str(tmp_path), "--json")
    assert result.exit_code == 1
    bad, good = json.loads(result.stdout)
    assert good["problems"] == []
    assert words in " ".join(bad["problems"])


def test_models_of_a_server_as_table_and_json() -> None:
    with running(FakeServer()) as server:
        table = invoke("--base-url", server.url).stdout
        model, bad = json.loads(invoke("--base-url", server.url, "--json").stdout)
    assert "tiny-a" in table
    assert "512" in table
    assert model["id"] == "tiny-a"
    assert (bad["id"], bad["ready"]) == ("bad", False)
    assert "failed: it is" in table
