"""Everything but training and PyTorch's own kernels runs where PyTorch is not installed.

The processes here find no `torch`: a `sitecustomize` that Python loads at start hides it, from the
engine's process as well.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from shoal.kernels import native

ROOT = Path(__file__).parents[2]
SHOAL = [sys.executable, "-m", "shoal"]
INSTALL = "pip install 'shoal[torch]'"
HIDE_TORCH = """
import importlib.machinery, importlib.metadata

find_spec = importlib.machinery.PathFinder.find_spec
version = importlib.metadata.version

class PathFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] != "torch":
            return find_spec(name, path, target)

def version_without_torch(name):
    if name == "torch":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

import sys
sys.meta_path = [PathFinder if finder is importlib.machinery.PathFinder else finder
                 for finder in sys.meta_path]
importlib.metadata.version = version_without_torch
"""

needs_native = pytest.mark.skipif(not native.available(), reason="native kernels are not built")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(HIDE_TORCH)
    paths = [str(tmp_path), str(ROOT / "service")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}


def shoal(env: dict[str, str], *args: str) -> "subprocess.CompletedProcess[str]":
    command = [*SHOAL, *args]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)


@contextmanager
def serving(env: dict[str, str], *args: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    server = subprocess.Popen(
        [*SHOAL, "serve", "--port", str(port), "--shutdown-delay", "0", *args], env=env, cwd=ROOT
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.05)
    raise TimeoutError(url)


def test_torch_is_really_hidden(env: dict[str, str]) -> None:
    code = "import importlib.util as u; print(u.find_spec('torch')); import torch"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "None\n"
    assert "No module named 'torch'" in done.stderr


@needs_native
def test_the_server_answers(env: dict[str, str]) -> None:
    with serving(env, "--model", "models/minnow") as url:
        wait_until_ready(url)
        request = {"model": "minnow", "prompt": "Once upon a time", "max_tokens": 8, "logprobs": 2}
        answer = httpx.post(f"{url}/v1/completions", json=request, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 8
        done = shoal(env, "complete", "The cat", "--max-tokens", "4", "--base-url", url)
        assert (done.returncode, done.stderr) == (0, "")


@needs_native
def test_the_doctor_is_content(env: dict[str, str]) -> None:
    done = shoal(env, "doctor", "--port", "0")
    assert done.returncode == 0, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("✓ torch"))
    assert line.endswith(INSTALL)


@pytest.mark.parametrize("command", ["serve", "chat", "complete", "bench", "models", "train"])
def test_every_command_shows_its_help(env: dict[str, str], command: str) -> None:
    done = shoal(env, command, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_training_says_in_one_line_what_to_install(env: dict[str, str], tmp_path: Path) -> None:
    done = shoal(env, "train", "--data", "README.md", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert INSTALL in done.stderr


def test_its_kernels_say_in_one_line_what_to_install(env: dict[str, str]) -> None:
    done = shoal(env, "serve", "--model", "models/minnow", "--kernels", "torch", "--port", "0")
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("shoal: "))
    assert line.endswith(INSTALL)
    assert "Traceback" not in done.stderr
