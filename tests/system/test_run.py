"""`shoal run` with real servers of minnow: what it answers, and that nothing stays behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.system.terminal import (
    ROOT,
    SHOAL,
    Terminal,
    all_end,
    environment,
    on_terminal,
    shoal,
    without_escapes,
)
from tests.unit.commands.fake_openai import FakeServer, running

MINNOW = str(ROOT / "models" / "minnow")
GREEDY = ("--temperature", "0", "--max-tokens", "24")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Variables that put every file of a command below `tmp_path`."""
    variables = {
        "TMPDIR": "tmp", "XDG_RUNTIME_DIR": "run", "XDG_STATE_HOME": "state", "HOME": "home",
    }  # fmt: skip
    for folder in variables.values():
        (tmp_path / folder).mkdir()
    return {name: str(tmp_path / folder) for name, folder in variables.items()}


def files_in(places: dict[str, str]) -> list[str]:
    return [str(path) for place in places.values() for path in Path(place).rglob("*")]


def test_a_pipe_gets_the_answer_alone_and_nothing_stays_behind(
    places: dict[str, str], tmp_path: Path
) -> None:
    question = "Tell me a story about a fish."
    before = set(psutil.pids())
    done = shoal("run", MINNOW, question, *GREEDY, cwd=tmp_path, **places)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n")
    assert len(done.stdout.split()) > 10
    assert files_in(places) == []
    started = [p for p in psutil.process_iter() if p.pid not in before and is_ours(p, places)]
    assert all_end(started)


def is_ours(process: psutil.Process, places: dict[str, str]) -> bool:
    try:
        return process.environ().get("TMPDIR") == places["TMPDIR"]
    except psutil.Error:
        return False


@pytest.mark.slow
def test_the_prompt_may_come_from_a_pipe_and_the_answer_be_held_to_a_schema(
    places: dict[str, str], tmp_path: Path
) -> None:
    question = "Tell me a story about a fish."
    given = shoal("run", MINNOW, question, *GREEDY, cwd=tmp_path, **places)
    piped = shoal("run", MINNOW, *GREEDY, text=question, cwd=tmp_path, **places)
    assert piped.stdout == given.stdout
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"a": {"type": "boolean"}},
                                  "required": ["a"], "additionalProperties": False}))  # fmt: skip
    flags = ("--json-schema", str(schema), "--max-tokens", "60")
    held = shoal("run", MINNOW, "x", *flags, cwd=tmp_path, **places)
    assert set(json.loads(held.stdout)) == {"a"}
    empty = shoal("run", MINNOW, cwd=tmp_path, **places)
    assert (empty.returncode, "the prompt is empty" in empty.stderr) == (2, True)


def kill(number: int) -> Callable[[Terminal], None]:
    return lambda terminal: os.kill(terminal.pid, number)


ENDS: dict[str, tuple[Callable[[Terminal], None], int]] = {
    "SIGTERM": (kill(signal.SIGTERM), 128 + signal.SIGTERM),
    "SIGHUP": (kill(signal.SIGHUP), 128 + signal.SIGHUP),
    "SIGKILL": (kill(signal.SIGKILL), -signal.SIGKILL),
    "Ctrl-D": (lambda terminal: terminal.write("\x04"), 0),
    "/quit": (lambda terminal: terminal.write("/quit\n"), 0),
}
MOMENTS = ("starting", "at the prompt", "in an answer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "when"),
    [
        (how, when)
        for how in ENDS
        for when in MOMENTS
        if how.startswith("SIG") or when == MOMENTS[1]
    ],
)
def test_however_it_ends_nothing_stays_behind(
    how: str, when: str, places: dict[str, str], tmp_path: Path
) -> None:
    end, exit_code = ENDS[how]
    command = ("run", MINNOW, "--max-tokens", "400", "--no-history")
    with on_terminal(*command, cwd=tmp_path, TERM="xterm", **places) as terminal:
        terminal.wait_for("starting")
        started = wait_for_children(terminal, 1)
        if when != "starting":
            terminal.wait_for("/help lists the commands")
            terminal.wait_for_prompt()
            started = wait_for_children(terminal, 2)
        if when == "in an answer":
            terminal.write("Tell me a story about a fish.\n")
            terminal.wait_for("fish.\r\n")
        end(terminal)
        assert terminal.wait() == exit_code
        assert all_end(started)
        if exit_code != -signal.SIGKILL:
            assert terminal.echoes()
    assert files_in(places) == []


def wait_for_children(terminal: Terminal, number: int) -> list[psutil.Process]:
    """All processes below it, once there are so many."""
    deadline = time.monotonic() + 30
    while len(found := terminal.children()) < number:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_ctrl_c_while_the_server_starts_ends_it(places: dict[str, str], tmp_path: Path) -> None:
    with on_terminal("run", MINNOW, cwd=tmp_path, TERM="xterm", **places) as terminal:
        terminal.wait_for("starting")
        started = wait_for_children(terminal, 1)
        terminal.write("\x03")
        assert terminal.wait() == 130
        assert all_end(started)
    assert files_in(places) == []


@pytest.mark.slow
def test_a_chat_on_a_terminal_stops_at_ctrl_c_and_goes_on(
    places: dict[str, str], tmp_path: Path
) -> None:
    command = ("run", MINNOW, "--max-tokens", "400")
    with on_terminal(*command, cwd=tmp_path, TERM="xterm", **places) as terminal:
        terminal.wait_for_prompt()
        terminal.write("Tell me a story about a fish.\n")
        terminal.wait_for("fish.\r\n")
        terminal.write("\x03")
        terminal.wait_for_prompt()
        terminal.write("/stats\n")
        terminal.wait_for("speed is shown")
        terminal.write("/set max_tokens 5\n")
        terminal.wait_for("max_tokens: 5")
        terminal.write("Tell me a story about a dog.\n")
        assert "5 tokens · " in without_escapes(terminal.wait_for("first token"))
        terminal.write("/quit\n")
        assert terminal.wait() == 0
    assert [Path(file).name for file in files_in(places)] == ["shoal", "chat_history"]


def test_a_server_at_the_address_given_is_used(places: dict[str, str], tmp_path: Path) -> None:
    with running(FakeServer()) as server:
        run = ["run", "--max-tokens", "2", "--base-url", server.url, "tiny-a"]
        done = shoal(*run, "Hi", cwd=tmp_path, **places)
        assert (done.returncode, done.stdout) == (0, " blue sky\n")
        for words in (["Hi", "there"], ["About", "this:", "-"], ["-"], []):
            shoal(*run, *words, text="piped\n", cwd=tmp_path, **places)
        asked = [body["messages"][0]["content"] for body in server.asked]
        assert asked == ["Hi", "Hi there", "About this:\n\npiped", "piped", "piped"]
        refused = shoal("run", "other", "Hi", "--base-url", server.url, cwd=tmp_path, **places)
    assert refused.returncode == 2
    assert refused.stderr == f"shoal: {server.url} has no model other: there is tiny-a\n"


def test_a_model_that_is_not_there_is_told_with_what_there_is(
    places: dict[str, str], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "minnow").symlink_to(MINNOW)
    (tmp_path / "broken").mkdir()
    for name, exit_code, words in (
        ("minow", 2, "no model minow: there is minnow in models; `shoal pull smollm2` fetches one"),
        ("minow", 2, "Did you mean minnow?"),
        ("smollm2", 2, "`shoal pull smollm2` fetches it"),
        ("./broken", 3, "broken"),
    ):
        done = shoal("run", name, "Hi", cwd=tmp_path, SHOAL_MODELS_DIR="models", **places)
        assert (done.returncode, done.stdout) == (exit_code, "")
        assert words in done.stderr
        assert done.stderr.startswith("shoal: ")


@pytest.mark.slow
def test_settings_of_access_are_not_those_of_the_private_server(
    places: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "shoal.toml").write_text(
        'host = "0.0.0.0"\nallow_unauthenticated = true\nprobe_port = 1\nmax_batch_size = 2\n'
        'keys_file = "none"\nadapters = ["none"]\ndefault_model = "none"\n'
    )
    done = shoal("run", MINNOW, "Hi", *GREEDY, cwd=tmp_path, **places)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_serve_shows_its_address_first_on_a_terminal_and_when_ready_elsewhere(
    places: dict[str, str], tmp_path: Path
) -> None:
    command = ("serve", MINNOW, "--port", "0", "--shutdown-delay", "0")
    with on_terminal(*command, cwd=tmp_path, TERM="xterm", **places) as terminal:
        assert terminal.wait_for("Shoal serves on http://127.0.0.1:") == ""
        assert terminal.wait_for("parameters").count("minnow") == 1
        terminal.wait_for("curl")
        terminal.write("\x03")
        assert terminal.wait() == 0
    with subprocess.Popen(
        [*SHOAL, *command],
        cwd=tmp_path,
        env=environment(**places),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "minnow" in process.stdout.readline()
        assert process.stdout.readline().startswith("Shoal serves on http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert [path for path in files_in(places) if not path.endswith("/shoal")] == []


@pytest.mark.slow
def test_nobody_else_can_use_the_private_server(places: dict[str, str], tmp_path: Path) -> None:
    with on_terminal("run", MINNOW, cwd=tmp_path, TERM="xterm", **places) as terminal:
        terminal.wait_for_prompt()
        (server, *_) = terminal.children()
        (address,) = {c.laddr for c in server.net_connections() if c.status == "LISTEN"}
        assert address.ip == "127.0.0.1"
        url = f"http://127.0.0.1:{address.port}"
        done = shoal("complete", "x", "--base-url", url, cwd=tmp_path, **places)
        assert "key" in done.stderr
        assert done.stdout == ""
        assert "no server of this user" in shoal("ps", cwd=tmp_path, **places).stdout
