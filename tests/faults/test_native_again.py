"""A missing compiler: set-up goes on without the native kernels, every start says so, and a
compiler that comes later is used."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "$@" >> {log}
case "$*" in "-c import shoal.kernels._native") exit {imported};; esac
"""
COMPILER = "#!/bin/sh\necho 'c++ {version}'\n"


class Checkout:
    """A copy of the scripts, with an environment whose Python only notes how it is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        self.tools = folder / "tools"  # instead of this machine's compilers
        self.tools.mkdir()
        for name in ("bash", "cat", "dirname", "grep", "head", "rm"):
            (self.tools / name).symlink_to(shutil.which(name) or name)
        self.venv = folder / "venv"
        (self.venv / "bin").mkdir(parents=True)
        self.python(imported=1)

    def python(self, imported: int) -> None:
        """`imported`: exit code of importing the native library."""
        self._write(
            self.venv / "bin" / "python",
            PYTHON.format(log=self.folder / "calls", imported=imported),
        )

    def compiler(self, version: int) -> None:
        self._write(self.tools / "c++", COMPILER.format(version=version))

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env={"PATH": str(self.tools)},
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
        return " ".join(done.stdout.split())

    def set_up(self) -> str:
        said = self.run("deploy/setup.sh", "venv/bin/python", "machine")
        (self.venv / "server.stamp").touch()
        return said

    def start(self) -> str:
        return self.run("deploy/native-again.sh", "venv")

    @property
    def is_set_up(self) -> bool:
        return (self.venv / "server.stamp").exists()

    @staticmethod
    def _write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_without_a_compiler_every_start_says_so_and_a_later_one_is_used(
    checkout: Checkout,
) -> None:
    assert "could not be built" in checkout.set_up()
    calls = (checkout.folder / "calls").read_text()
    assert "requirements/torch" in calls
    for _ in range(2):
        assert "PyTorch computes, which is slower" in checkout.start()
        assert checkout.is_set_up
    checkout.compiler(1)
    assert "building the native kernels" in checkout.start()
    assert not checkout.is_set_up
    checkout.python(imported=0)
    assert "could not be built" not in checkout.set_up()
    assert checkout.start() == ""


def test_a_build_that_fails_is_not_tried_again_with_the_same_compiler(checkout: Checkout) -> None:
    checkout.compiler(1)
    checkout.set_up()
    assert "PyTorch computes" in checkout.start()
    assert checkout.is_set_up
    checkout.compiler(2)
    assert "another C++ compiler" in checkout.start()
    assert not checkout.is_set_up


def test_make_asks_before_every_start() -> None:
    for target in ("serve", "setup"):
        shown = subprocess.run(
            ["make", "--dry-run", target, "VENV=build/none"],
            cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "deploy/native-again.sh build/none" in shown
