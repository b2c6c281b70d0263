"""The first change of CONTRIBUTING.md, made in a copy: its test fails before and passes after."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.docs.blocks import ROOT
from tests.docs.walk import free_port, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
TEST = "tests/unit/sampling/test_max_run.py"
# An editable install would give the original package instead of the copy.
HERE = (
    "import sys, runpy; "
    "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__]; "
    "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its tests, as the working tree has them, kernels included."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("service", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def patches() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(r"^```diff\n(.*?)^```$", text, re.M | re.S)


def apply(patch: str, copy: Path) -> None:
    command = ["git", "apply", "-C1", "-"]
    done = subprocess.run(
        command, input=patch, text=True, cwd=copy, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def environment(copy: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if "SHOAL" not in name}
    return {
        **kept,
        "PYTHONPATH": f"{copy / 'service'}:{copy}",
        "GIT_CEILING_DIRECTORIES": str(copy),
    }


def python(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HERE, *arguments]
    return subprocess.run(
        command, cwd=copy, env=environment(copy), capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_first_change_works_as_it_is_told(copy: Path) -> None:
    test, *changes = patches()
    apply(test, copy)
    before = python(copy, "pytest", "-q", "-p", "no:cacheprovider", TEST)
    assert before.returncode == 1
    assert "max_token_run" in before.stdout
    for change in changes:
        apply(change, copy)
    after = python(copy, "pytest", "-q", "-p", "no:cacheprovider", TEST)
    assert after.returncode == 0, after.stdout
    assert "4 passed" in after.stdout
    ask_for_it(copy)


def ask_for_it(copy: Path) -> None:
    """A server of the copy knows the field, and the original does not."""
    port = free_port()
    command = [sys.executable, "-c", HERE, "shoal", "serve", str(ROOT / "models" / "minnow")]
    server = subprocess.Popen([*command, "--port", str(port)], cwd=copy, env=environment(copy))
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", server)
        body = {"prompt": "ha ha ha ha", "max_token_run": 1, "strict": True, "max_tokens": 4}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        unknown = httpx.post(
            f"http://127.0.0.1:{port}/v1/completions", json={**body, "max_token_walk": 1}
        )
        assert unknown.status_code == 400
    finally:
        server.send_signal(2)
        server.wait(30)
