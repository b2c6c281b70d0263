"""What set-up shows: its steps, and what the installers say only where that is of use."""

import re
from pathlib import Path

import pytest

from tests.fakes.checkout import Checkout

STEPS = (
    "shoal: installing the build tools ...",
    "shoal: building the native kernels and installing the packages of server ...",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    checkout = Checkout(tmp_path / "checkout")
    checkout.python(imported=0)
    return checkout


def test_a_pipe_gets_a_line_for_each_step_and_a_log_the_rest(checkout: Checkout) -> None:
    _, said, errors = checkout.run(*Checkout.SET_UP)
    assert said.splitlines() == list(STEPS)
    assert errors == ""
    log = (checkout.venv / "setup.log").read_text()
    assert re.search("installing .*requirements/build.lock", log)
    assert re.search("installing .*requirements/server.lock", log)


def test_a_terminal_sees_the_seconds_and_one_line_for_each_step_at_the_end(
    checkout: Checkout,
) -> None:
    checkout.python(imported=0, install_s=1.2)
    seen = checkout.run_on_terminal(*Checkout.SET_UP)
    assert f"\r\x1b[K\x1b[?7l  0 s  {STEPS[0]}" in seen
    lines = [line.rpartition("\r\x1b[K")[2] for line in seen.split("\r\n")]
    assert [re.sub(r" [1-9] s$", "", line) for line in lines] == [*STEPS, ""]


def test_where_a_step_fails_all_that_was_said_is_shown(checkout: Checkout) -> None:
    checkout.python(imported=0, fails_at="requirements/server.lock")
    code, _, errors = checkout.run(*Checkout.SET_UP, check=False)
    assert code == 1
    assert "a broken wheel" in errors
    assert "venv/setup.log" in errors.splitlines()[-1]


def test_everything_is_shown_at_once_if_that_is_asked_for(checkout: Checkout) -> None:
    _, said, errors = checkout.run(*Checkout.SET_UP, V="1")
    assert said.splitlines() == list(STEPS)
    assert re.search("installing .*requirements/server.lock", errors)


def test_a_build_that_trips_over_the_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.python(imported=0, fails_at="--editable")
    code, _, _ = checkout.run(*Checkout.SET_UP, check=False)
    calls = (checkout.folder / "calls").read_text()
    assert calls.count("--editable") == 2
    assert code == 1
