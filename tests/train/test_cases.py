"""The training cases of the shared folder, each as the script that it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
NAMES = (
    "jsonl-as-people-have-it",
    "jsonl-extension",
    "train-obeys-truncation",
    "train-resume-other-data",
    "export-not-whole",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CASES.exists(), reason=f"needs {CASES.name}/ of the shared folder"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_fault_is_gone(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
    done = subprocess.run(
        [sys.executable, CASES / f"{name}.py"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
