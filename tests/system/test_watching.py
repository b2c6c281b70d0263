"""`shoal ps` and `shoal top` as processes. The servers are fake ones on loopback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.metrics import Metrics
from tests.system.terminal import SERVICE, on_terminal, shoal, without_escapes
from tests.unit.commands.fake_openai import FakeServer, running

# A process with a run file that says that it serves at an address.
SERVES = """
import sys, time
from shoal.server.run_file import run_file
with run_file(sys.argv[1]):
    print("noted", flush=True)
    time.sleep(60)
"""


def page(**gauges: float) -> str:
    metrics = Metrics()
    metrics.model_state.labels("m", "ready").set(1)
    for name, value in gauges.items():
        getattr(metrics, name).labels("m").set(value)
    return metrics.render().decode()


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def test_ps_lists_what_runs_and_forgets_what_was_killed(
    places: dict[str, str], tmp_path: Path
) -> None:
    assert "no server of this user runs here" in shoal("ps", **places).stdout
    environment = {**os.environ, **places, "PYTHONPATH": SERVICE}
    with running(FakeServer(metrics=page(running=3, waiting=2))) as server:
        noted = subprocess.Popen(
            [sys.executable, "-c", SERVES, server.url], env=environment, stdout=subprocess.PIPE
        )
        assert noted.stdout is not None
        try:
            assert noted.stdout.readline() == b"noted\n"
            (found,) = json.loads(shoal("ps", "--json", **places).stdout)
            head, row = shoal("ps", **places).stdout.splitlines()
        finally:
            noted.send_signal(signal.SIGKILL)
            noted.wait()
            noted.stdout.close()
        assert (found["url"], found["pid"]) == (server.url, noted.pid)
        assert (found["running"], found["waiting"], found["models"]) == (3, 2, {"m": "ready"})
        assert found["memory_bytes"] > 1 << 20
        assert 0 <= found["up_s"] < 60
        assert head.split() == ["address", "models", "up", "running", "waiting", "memory", "pid"]
        assert row.split()[:2] == [server.url, "m"]
        assert len(list((tmp_path / "shoal").iterdir())) == 1
        assert "no server" in shoal("ps", **places).stdout
        assert list((tmp_path / "shoal").iterdir()) == []


def test_ps_asks_a_server_at_an_address_and_says_when_a_key_is_missing(
    places: dict[str, str],
) -> None:
    with running(FakeServer(metrics=page(running=1), key="mine")) as server:
        without = shoal("ps", "--url", server.url, **places)
        with_key = shoal("ps", "--json", "--url", server.url, SHOAL_API_KEY="mine", **places)
    assert "needs a key" in without.stdout
    (found,) = json.loads(with_key.stdout)
    assert (found["running"], found["remark"], found["pid"]) == (1, "", None)
    gone = shoal("ps", "--url", server.url, **places)
    assert gone.returncode == 1
    assert (
        gone.stderr == f"shoal: no server answers at {server.url}: start one with `shoal serve`\n"
    )


def test_top_measures_once_for_scripts_and_in_pipes() -> None:
    with running(FakeServer(metrics=page(running=7), key="mine")) as server:
        flags = ("--interval", "0.1", "--base-url", server.url)
        table = shoal("top", "--once", *flags, SHOAL_API_KEY="mine")
        as_json = shoal("top", "--json", *flags, SHOAL_API_KEY="mine")
        refused = shoal("top", *flags)
    head, row = table.stdout.splitlines()
    assert dict(zip(head.split(), row.split(), strict=True))["running"] == "7"
    assert json.loads(as_json.stdout)["models"][0]["running"] == 7
    assert (refused.returncode, "--api-key" in refused.stderr) == (1, True)


def test_top_of_something_else_is_one_line() -> None:
    with running(FakeServer(metrics="<html>{")) as server:
        done = shoal("top", "--base-url", server.url)
    assert done.returncode == 1
    assert "at /metrics cannot be read" in done.stderr


def test_top_is_live_until_q_and_says_when_the_server_goes_and_comes() -> None:
    server = FakeServer(metrics=page(running=7))
    with running(server):
        top = ["top", "--interval", "0.2", "--base-url", server.url]
        with on_terminal(*top, columns=100, TERM="xterm") as terminal:
            terminal.wait_for("tokens/s")
            terminal.wait_for(" 7 ")
            assert not terminal.echoes()
            server.metrics = page(running=8)
            terminal.wait_for(" 8 ")
            server.metrics = None
            terminal.wait_for("looking again")
            server.metrics = page(running=9)
            terminal.wait_for(" 9 ")
            terminal.resize(40)
            terminal.wait_for("tokens/s")
            terminal.write("q")
            assert terminal.wait() == 0
            assert terminal.echoes()
            assert "\x1b[?1049l" in terminal.seen  # the screen as it was before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_top_and_gives_the_terminal_back(number: int) -> None:
    with (
        running(FakeServer(metrics=page(running=7))) as server,
        on_terminal("top", "--base-url", server.url, TERM="xterm") as terminal,
    ):
        terminal.wait_for("tokens/s")
        os.kill(terminal.pid, number)
        assert terminal.wait() == (0 if number == signal.SIGINT else 128 + number)
        assert terminal.echoes()
        assert "\x1b[?1049l" in terminal.seen


def test_a_terminal_that_cannot_move_its_cursor_gets_one_table() -> None:
    with running(FakeServer(metrics=page(running=7))) as server:
        with on_terminal("top", "--interval", "0.1", "--base-url", server.url) as terminal:
            assert terminal.wait() == 0
        assert "\x1b[?1049h" not in terminal.seen
        assert "7" in without_escapes(terminal.seen)
