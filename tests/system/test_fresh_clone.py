"""`make serve` on a copy of this repository as git has it: what it installs and what it says."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def first_answer(*make_variables: str) -> str:
    """All that `make serve` prints until the first answer, with times; see the script."""
    command = [str(ROOT / "deploy" / "first-answer.sh"), *make_variables]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode == 0
    assert "first answer" in done.stdout
    return done.stdout


def megabytes_of_environment(shown: str) -> float:
    size, unit = re.findall(r"\.venv: ([\d.]+)([MG])", shown)[0]
    return float(size) * (1000 if unit == "G" else 1)


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_with_a_compiler_the_native_kernels_compute_and_pytorch_is_not_installed() -> None:
    shown = first_answer()
    assert "PyTorch" not in shown
    assert "torch kernels" not in shown
    assert megabytes_of_environment(shown) < 400
    _, *lines = itertools.takewhile(
        lambda line: not re.search(r'parameters,|first answer|"time": ', line), shown.splitlines()
    )
    assert all("shoal: " in line for line in lines)
    parts = [line for line in lines if "pulling smollm2: " not in line]
    assert len(parts) == 4, "one line for each part, and nothing of the installer's"
    if "smollm2 was not pulled" not in shown:
        assert re.search("smollm2: .*Paris", shown)


def test_only_the_models_that_are_named_are_pulled_and_served() -> None:
    shown = first_answer("MODELS=minnow")
    assert "smollm2" not in shown
    assert "pilotfish" not in shown


def test_without_a_compiler_pytorch_is_installed_and_one_line_says_so() -> None:
    shown = first_answer("CXX=/bin/false", "MODELS=minnow,pilotfish")
    (line,) = (line for line in shown.splitlines() if "PyTorch" in line)
    assert "could not be built (.venv/native-build.log says why)" in line
    assert shown.count("(torch kernels)") == 2, "both models"
