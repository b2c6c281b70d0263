"""What `shoal doctor` finds on this machine and on made-up ones."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.checkpoint.find import find_models
from shoal.cli import build_app
from shoal.commands import checks, machine
from shoal.commands.checks import check_python, check_torch
from shoal.config import load_settings
from shoal.errors import ModelFolderError
from shoal.kernels import native
from shoal.server import serve as server
from tests.fakes.tiny_adapters import write_adapter
from tests.fakes.tiny_models import write_tiny_llama


def invoke(*args: str) -> Result:
    return CliRunner().invoke(build_app(), ["doctor", *args])


def test_a_machine_with_a_good_model_passes(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    result = invoke("--model", str(folder), "--port", "0")
    assert result.exit_code == 0, result.stdout
    assert "✓ model tiny" in result.stdout
    assert "lock verified" in result.stdout


def test_what_is_left_out_of_a_model_is_said(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "generation_config.json").write_text(
        '{"num_beams": 4, "eos_token_id": 99999, "_from_model_config": true}'
    )
    result = invoke("--model", str(folder), "--port", "0")
    assert result.exit_code == 0, result.stdout
    assert "left out: num_beams" in result.stdout
    assert "eos_token_id 99999" in result.stdout


def test_a_damaged_model_is_essential(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    (folder / "tokenizer.json").write_text("[]")
    result = invoke("--model", str(folder), "--port", "0")
    assert result.exit_code == 1
    assert "✗ model tiny" in result.stdout
    assert "tiny/tokenizer.json differs from lock.json: restore the file" in result.stdout


def test_a_bad_folder_among_good_ones_is_told_but_not_essential(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "good")
    (write_tiny_llama(tmp_path / "cut") / "model.safetensors").write_bytes(b"x")
    bad = write_tiny_llama(tmp_path / "bad")
    (bad / "config.json").rename(bad / "adapter_config.json")
    result = invoke("--models-dir", str(tmp_path), "--port", "0")
    assert result.exit_code == 0, result.stdout
    assert "✓ model good" in result.stdout
    assert "bad is an adapter" in result.stdout
    assert "cut/model.safetensors is too short" in result.stdout


def test_when_no_model_of_several_can_be_served_that_is_essential(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (write_tiny_llama(tmp_path / name) / "model.safetensors").write_bytes(b"x")
    result = invoke("--models-dir", str(tmp_path), "--port", "0")
    assert result.exit_code == 1
    assert "none can be served" in result.stdout


def test_the_doctor_says_what_serve_says(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(ModelFolderError) as caught:
        find_models([str(folder)], None, None)
    result = invoke("--model", str(folder), "--port", "0")
    assert result.exit_code == 1
    assert caught.value.message in result.stdout


def test_no_model_is_essential_and_says_what_to_do(tmp_path: Path) -> None:
    result = invoke("--models-dir", str(tmp_path), "--port", "0")
    assert result.exit_code == 1
    assert "✗ models" in result.stdout
    assert "shoal serve PATH" in result.stdout


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def break_nothing(folder: Path) -> dict[str, str]:
    return {}


def break_name(folder: Path) -> dict[str, str]:
    return {"SHOAL_MODELS": f"{folder},{folder}"}


def break_keys(folder: Path) -> dict[str, str]:
    return {"SHOAL_API_KEYS": "ann:caf\u00e9"}


def break_keys_file(folder: Path) -> dict[str, str]:
    (folder.parent / "keys.toml").write_text("keys = 3")
    return {"SHOAL_KEYS_FILE": str(folder.parent / "keys.toml")}


def break_adapter(folder: Path) -> dict[str, str]:
    return {"SHOAL_ADAPTERS": str(folder.parent / "none")}


def break_probe_port(folder: Path) -> dict[str, str]:
    return {"SHOAL_PROBE_PORT": os.environ["SHOAL_PORT"], "SHOAL_PORT": "0"}


def break_address(folder: Path) -> dict[str, str]:
    return {"SHOAL_HOST": "203.0.113.1", "SHOAL_ALLOW_UNAUTHENTICATED": "true"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (break_nothing, "cannot listen on 127.0.0.1"),  # the port is taken
        (break_probe_port, "cannot listen on 127.0.0.1"),
        (break_name, "two models are named tiny"),
        (break_keys, "api_keys entry 1: a key is printable ASCII"),
        (break_keys_file, "a keys file holds"),
        (break_adapter, "none"),
        (break_address, "cannot listen on 203.0.113.1"),
    ],
)
def test_what_serve_refuses_the_doctor_refuses_in_the_same_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    taken_port: int,
    change: Callable[[Path], dict[str, str]],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_tiny_llama(tmp_path / "tiny")
    monkeypatch.setenv("SHOAL_PORT", str(taken_port))
    for name, value in {"SHOAL_MODELS": str(folder), **change(folder)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(server, "forget_secrets", lambda: None)
    serve = CliRunner().invoke(build_app(), ["serve"])
    assert serve.exit_code == 2, serve.output
    (line,) = serve.stderr.splitlines()
    said = line.removeprefix("shoal: ")
    assert words in said
    doctor = invoke()
    assert doctor.exit_code == 1
    assert said in doctor.stdout
    (essential,) = [line for line in doctor.stdout.splitlines() if said in line]
    assert essential.startswith("✗")
    assert "(optional)" not in essential


def test_wrong_settings_end_both_with_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_THREADS", "many")
    for command in ("serve", "doctor"):
        result = CliRunner().invoke(build_app(), [command])
        assert result.exit_code == 2
        assert "threads (file or SHOAL_THREADS)" in result.stderr


def test_what_serve_warns_of_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    monkeypatch.setenv("SHOAL_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("SHOAL_THREDS", "2")
    monkeypatch.setenv("SHOAL_ALLOW_UNAUTHENTICATED", "1")
    result = invoke("--model", str(folder), "--port", "0")
    assert result.exit_code == 0, result.stdout
    for words in ("enableServiceLinks: false", "did you mean SHOAL_THREADS?", "without a key"):
        assert words in result.stdout


def test_a_model_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    monkeypatch.setattr("shoal.runner.device.available_bytes", lambda: 60 << 20)
    result = invoke("--model", str(folder), "--port", "0")
    assert result.exit_code == 1
    assert "✗ model tiny" in result.stdout
    assert "40 MiB were available" in result.stdout
    assert "raise the limit" in result.stdout


def test_an_adapter_that_does_not_fit_its_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_tiny_llama(tmp_path / "tiny")
    adapter = write_adapter(tmp_path / "good", base)
    monkeypatch.setenv("SHOAL_ADAPTERS", str(adapter))
    result = invoke("--model", str(base), "--port", "0")
    assert result.exit_code == 0, result.stdout
    assert "✓ adapter good" in result.stdout
    (adapter / "adapter_model.safetensors").write_bytes(b"cut")
    result = invoke("--model", str(base), "--port", "0")
    assert result.exit_code == 1
    assert "✗ adapter good" in result.stdout


@pytest.mark.parametrize("setting", ["kernels=native", "kernels=auto"])
def test_a_native_library_that_does_not_load_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    monkeypatch.setattr(native, "_BUILT", False)
    monkeypatch.setattr(native, "_WHY_NOT", "undefined symbol: x")
    monkeypatch.setenv("SHOAL_KERNELS", setting.partition("=")[2])
    result = invoke("--model", str(folder), "--port", "0")
    assert "undefined symbol: x" in result.stdout or "✗ kernels" in result.stdout
    assert "C++ compiler" in result.stdout
    assert result.exit_code == (1 if setting == "kernels=native" else 0), result.stdout


def test_an_old_python_is_essential() -> None:
    assert check_python((3, 11, 0)).ok
    finding = check_python((3, 9, 18))
    assert (finding.ok, finding.essential) == (False, True)


@pytest.mark.parametrize(
    ("torch", "problem", "settings", "ok"),
    [
        ("2.13.0", "not built", {}, True),
        (None, None, {}, True),
        (None, "not built", {}, False),
        (None, None, {"kernels": "torch"}, False),
        (None, None, {"device": "cuda"}, False),
    ],
)
def test_torch_is_essential_only_where_nothing_else_computes(
    monkeypatch: pytest.MonkeyPatch,
    torch: str | None,
    problem: str | None,
    settings: dict[str, str],
    ok: bool,
) -> None:
    monkeypatch.setattr(checks, "_version", lambda _: torch)
    monkeypatch.setattr(checks, "_native_problem", lambda: problem)
    finding = check_torch(load_settings(**settings))
    assert finding.ok == ok
    assert finding.essential == (not ok)
    if torch is None:
        assert "pip install 'shoal[torch]'" in finding.found + finding.advice


def test_the_processor_is_read_from_cpuinfo(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 fma\n")
    assert machine.cpu_model(cpuinfo) == "Fast One"
    assert machine.cpu_flags(cpuinfo) == {"fpu", "avx2", "fma"}


def test_a_probe_port_that_is_taken_is_named(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_PROBE_PORT", str(taken_port))
    result = invoke("--models-dir", str(tmp_path), "--port", "0")
    assert result.exit_code == 1
    assert f"127.0.0.1:{taken_port}" in result.stdout
    assert "--probe-port" in " ".join(result.stdout.split())
