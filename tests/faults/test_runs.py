"""Whole runs in other surroundings: without a network, without asserts, for many requests."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.served import ROOT, write_tiny_llama
from tests.faults.leak import Load, run
from tests.faults.measured import Measured

IN_A_NAMESPACE = ["unshare", "--map-root-user", "--net"]
OPTIMIZED = [
    "tests/http/test_hostile.py",
    "tests/http/test_fields.py",
    "tests/http/test_access.py",
    "tests/checkpoint/test_safetensors.py",
    "tests/checkpoint/test_gguf.py",
    "tests/checkpoint/test_hf.py",
    "tests/checkpoint/test_open.py",
    "tests/checkpoint/test_lock.py",
    "tests/model/test_weights.py",
]
"""Bad requests and bad model files."""


def can_unshare() -> bool:
    try:
        return subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_a_model_is_served_where_there_is_no_network(tmp_path: Path, measured: Measured) -> None:
    if not can_unshare():
        pytest.skip("no network namespace can be made here")
    folder = write_tiny_llama(tmp_path / "tiny")
    command = [*IN_A_NAMESPACE, sys.executable, "-m", "tests.faults.no_network", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    measured(
        "no network but the loopback",
        promised="a model starts and answers",
        measured=done.stdout.strip() or f"exit code {done.returncode}",
    )
    assert (done.returncode, done.stdout.split()) == (0, ["200", "3"]), done.stderr[-3000:]


@pytest.mark.faults
@pytest.mark.timeout(200)
def test_a_machine_that_vanishes_keeps_nothing_for_long(tmp_path: Path, measured: Measured) -> None:
    if not can_unshare() or shutil.which("ip") is None:
        pytest.skip("no network namespace can be made here")
    folder = write_tiny_llama(tmp_path / "tiny", num_layers=12)
    command = [*IN_A_NAMESPACE, sys.executable, "-m", "tests.faults.vanished_peer", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=190)
    seconds = done.stdout.strip()
    measured(
        "a client's machine vanishes in the middle of a stream",
        promised="rows and connection are given back in 45 s",
        measured=f"{seconds} s" if seconds else f"exit code {done.returncode}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(seconds) < 45.0


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_bad_requests_and_files_are_refused_without_asserts_too(measured: Measured) -> None:
    """pytest's own asserts, which it rewrites, stay."""
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", *OPTIMIZED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=580)
    measured(
        "bad requests and model files under python -O",
        promised="refused as ever",
        measured=done.stdout.strip().splitlines()[-1],
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_memory_and_files_stay_where_they_are_under_load(
    tmp_path: Path, measured: Measured
) -> None:
    seen = run(Load(seconds=60.0), tmp_path)
    measured(
        f"{seen.num_requests:,} mixed requests in 60 s, {seen.num_cancelled:,} cancelled",
        promised=f"resident memory grows < {seen.limit_mib:g} MiB per 1,000 requests, open files 0",
        measured=f"{seen.mib_per_1000:.2f} MiB, {seen.open_files:+d} files",
    )
    assert seen.mib_per_1000 < seen.limit_mib
    assert abs(seen.open_files) <= 2
