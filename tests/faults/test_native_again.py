"""A missing compiler: set-up goes on without the native kernels, every start says so, and a
compiler that comes later is used."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.fakes.checkout import ROOT, Checkout


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
