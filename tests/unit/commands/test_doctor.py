"""What `shoal doctor` finds on this machine and on made-up ones."""

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal.checkpoint.find import find_models
from shoal.cli import build_app
from shoal.commands import checks, machine
from shoal.commands.checks import check_port, check_python, check_torch
from shoal.errors import ModelFolderError
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


def test_a_taken_port_is_found_but_not_essential() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = check_port("127.0.0.1", taken.getsockname()[1])
    assert not finding.ok
    assert not finding.essential
    assert "--port" in finding.advice


def test_an_old_python_is_essential() -> None:
    assert check_python((3, 11, 0)).ok
    finding = check_python((3, 9, 18))
    assert (finding.ok, finding.essential) == (False, True)


@pytest.mark.parametrize(
    ("torch", "native", "ok"),
    [("2.13.0", False, True), (None, True, True), (None, False, False)],
)
def test_torch_is_essential_only_where_nothing_else_computes(
    monkeypatch: pytest.MonkeyPatch, torch: str | None, native: bool, ok: bool
) -> None:
    monkeypatch.setattr(checks, "_version", lambda _: torch)
    monkeypatch.setattr(checks, "_native_is_built", lambda: native)
    finding = check_torch()
    assert finding.ok == ok
    assert finding.essential == (not ok)
    if torch is None:
        assert "pip install 'shoal[torch]'" in finding.found + finding.advice


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 1.5), ("50000 100000", 0.5), ("max 100000", None)]
)
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    unlimited = machine.usable_cores(tmp_path / "none")
    expected = unlimited if cores is None else min(unlimited, cores)
    assert machine.usable_cores(tmp_path) == expected


def test_a_cgroup_memory_limit_is_read(tmp_path: Path) -> None:
    assert machine.memory_limit_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_limit_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert machine.memory_limit_bytes(tmp_path) == 2**30


def test_the_processor_is_read_from_cpuinfo(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Fast One\nflags\t\t: fpu avx2 fma\n")
    assert machine.cpu_model(cpuinfo) == "Fast One"
    assert machine.cpu_flags(cpuinfo) == {"fpu", "avx2", "fma"}
