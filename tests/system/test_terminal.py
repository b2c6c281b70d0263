"""`shoal chat` and `shoal top` on a pseudo-terminal. The server is a fake one on loopback."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.terminal import Terminal, on_terminal, shoal, without_escapes
from tests.unit.commands.fake_openai import FakeServer, running

ANSWER = ("**bold**", "and", "wide中中")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer(words=ANSWER)) as server:
        yield server


@pytest.fixture
def endless() -> Iterator[FakeServer]:
    with running(FakeServer(token_delay_s=0.03)) as server:
        yield server


def at_prompt(terminal: Terminal) -> Terminal:
    terminal.wait_for("/help lists the commands")
    terminal.wait_for_prompt()
    return terminal


def test_ctrl_c_stops_the_answer_and_not_the_chat(endless: FakeServer, tmp_path: Path) -> None:
    chat = ["chat", "--max-tokens", "2000", "--base-url", endless.url]
    with on_terminal(*chat, XDG_STATE_HOME=str(tmp_path)) as terminal:
        at_prompt(terminal).write("one\n")
        terminal.wait_for(" blue sky")
        assert not terminal.echoes()
        terminal.write("\x03")
        terminal.wait_for("[stopped]")
        terminal.wait_for_prompt()
        terminal.write("two\n")
        terminal.wait_for(" blue sky")
        terminal.write("\x03")
        terminal.wait_for("[stopped]")
        terminal.wait_for_prompt()
        terminal.write("\x03")
        terminal.wait_for("Ctrl-D leaves")
        terminal.wait_for_prompt()
        terminal.write("\x04")
        assert terminal.wait() == 0
        assert terminal.echoes()
    roles = [turn["role"] for turn in endless.asked[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert endless.asked[1]["messages"][1]["content"].startswith(" blue sky")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_an_answer_gives_the_terminal_back(
    endless: FakeServer, tmp_path: Path, number: int
) -> None:
    chat = ["chat", "--max-tokens", "2000", "--base-url", endless.url]
    with on_terminal(*chat, XDG_STATE_HOME=str(tmp_path)) as terminal:
        at_prompt(terminal).write("one\n")
        terminal.wait_for(" blue sky")
        assert not terminal.echoes()
        os.kill(terminal.pid, number)
        assert terminal.wait() == 128 + number
        assert terminal.echoes()


def test_a_signal_at_the_prompt_gives_the_terminal_back(server: FakeServer, tmp_path: Path) -> None:
    with on_terminal("chat", "--base-url", server.url, XDG_STATE_HOME=str(tmp_path)) as terminal:
        at_prompt(terminal)
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == 128 + signal.SIGTERM
        assert terminal.echoes()


def test_answers_are_formatted_where_the_terminal_can_and_plain_where_not(
    server: FakeServer, tmp_path: Path
) -> None:
    chat = ["chat", "--max-tokens", "3", "--base-url", server.url]
    state = str(tmp_path)

    def answer(*flags: str, **variables: str) -> str:
        variables = {"TERM": "xterm", "XDG_STATE_HOME": state, **variables}
        with on_terminal(*chat, *flags, **variables) as terminal:
            terminal.wait_for_prompt()
            terminal.write("one\n")
            return terminal.wait_for("中中") + "中中"

    formatted = answer()
    assert "\x1b[1mbold" in formatted
    assert "**" not in formatted
    assert "**bold** and wide" in answer("--plain")
    dumb = answer(TERM="dumb")
    assert "**bold** and wide" in dumb
    assert "\x1b[1m" not in dumb
    assert "\x1b[1mbold" in answer(NO_COLOR="1")


def test_a_narrow_terminal_wraps_between_words(tmp_path: Path) -> None:
    variables = {"TERM": "xterm", "XDG_STATE_HOME": str(tmp_path)}
    with (
        running(FakeServer(words=("seven",))) as server,
        on_terminal(
            "chat", "--max-tokens", "9", "--base-url", server.url, columns=20, **variables
        ) as terminal,
    ):
        terminal.wait_for_prompt()
        terminal.write("x\n")
        shown = without_escapes(terminal.wait_for("[cut"))
    assert [line.strip() for line in shown.splitlines()[1:4]] == ["seven seven seven"] * 3


def test_what_was_typed_comes_back_in_the_next_chat_and_keys_do_not(
    server: FakeServer, tmp_path: Path
) -> None:
    history = tmp_path / "shoal" / "chat_history"
    key = "a-key-of-mine"
    chat = ["chat", "--max-tokens", "1", "--base-url", server.url]
    variables = {"XDG_STATE_HOME": str(tmp_path), "SHOAL_API_KEY": key}
    with on_terminal(*chat, **variables) as terminal:
        at_prompt(terminal)
        for line in ("first question", f"is {key} a key", "sk-shoal-0123456789abcdefgh", "/stats"):
            terminal.write(f"{line}\n")
            terminal.wait_for_prompt()
    assert history.read_text() == "first question\n/stats\n"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.parent.stat().st_mode & 0o777 == 0o700
    with on_terminal(*chat, **variables) as terminal:
        at_prompt(terminal).write("\x1b[A\x1b[A\n")  # twice the arrow up
        terminal.wait_for("**bold**")
    assert server.asked[-1]["messages"][-1]["content"] == "first question"
    before = history.read_text()
    with on_terminal(*chat, "--no-history", **variables) as terminal:
        at_prompt(terminal).write("not kept\n")
        terminal.wait_for_prompt()
    assert history.read_text() == before


def test_a_history_that_cannot_be_written_is_told_once_and_the_chat_goes_on(
    server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "shoal").write_text("a file in the way")
    with on_terminal(
        "chat", "--max-tokens", "1", "--base-url", server.url, XDG_STATE_HOME=str(tmp_path)
    ) as terminal:
        terminal.wait_for("history is not kept")
        terminal.wait_for_prompt()
        terminal.write("one\n")
        assert "history" not in terminal.wait_for("**bold**")


def test_several_lines_between_quotes_are_one_message(server: FakeServer, tmp_path: Path) -> None:
    with on_terminal(
        "chat", "--max-tokens", "1", "--base-url", server.url, XDG_STATE_HOME=str(tmp_path)
    ) as terminal:
        at_prompt(terminal).write('"""one\n')
        terminal.wait_for_prompt("… ")
        terminal.write('  two\nthree"""\n')
        terminal.wait_for("**bold**")
    assert server.asked[0]["messages"][0]["content"] == "one\n  two\nthree"


def test_commands_are_completed_and_the_last_message_can_be_edited(
    server: FakeServer, tmp_path: Path
) -> None:
    with on_terminal(
        "chat", "--max-tokens", "1", "--base-url", server.url, XDG_STATE_HOME=str(tmp_path)
    ) as terminal:
        at_prompt(terminal).write("/sta\t\n")
        terminal.wait_for("speed is shown")
        terminal.wait_for_prompt()
        terminal.write("/set temperat\t 0.5\n")
        terminal.wait_for("temperature: 0.5")
        terminal.wait_for_prompt()
        terminal.write("what is blue\n")
        terminal.wait_for("1 tokens")
        terminal.wait_for_prompt()
        terminal.write("/edit\n")
        terminal.wait_for_prompt("› what is blue")
        terminal.write(" and green\n")
        terminal.wait_for("1 tokens")
        terminal.wait_for_prompt()
        terminal.write("/edit\n")
        terminal.wait_for_prompt("› what is blue and green")
        terminal.write("\x03")  # gives it up: the message stays
        terminal.wait_for_prompt()
        terminal.write("/retry\n")
        terminal.wait_for("1 tokens")
    asked = [body["messages"][-1]["content"] for body in server.asked]
    assert asked == ["what is blue", "what is blue and green", "what is blue and green"]
    assert [len(body["messages"]) for body in server.asked] == [1, 1, 1]
    assert server.asked[0]["temperature"] == 0.5


def test_escape_codes_of_a_model_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with (
        running(FakeServer(words=("\x1b]0;title\x07",))) as server,
        on_terminal(
            "chat", "--max-tokens", "1", "--base-url", server.url, XDG_STATE_HOME=str(tmp_path)
        ) as terminal,
    ):
        at_prompt(terminal).write("x\n")
        assert "\x1b]" not in terminal.wait_for("\\x1b]0;title\\x07")
    with running(FakeServer(words=("\x1b]0;title\x07",))) as server:
        done = shoal("chat", "--max-tokens", "1", "--base-url", server.url, text="x\n")
    assert done.stdout == " \x1b]0;title\x07\n"


def test_an_answer_that_is_cut_is_told(server: FakeServer, tmp_path: Path) -> None:
    with on_terminal(
        "chat", "--max-tokens", "2", "--base-url", server.url, XDG_STATE_HOME=str(tmp_path)
    ) as terminal:
        at_prompt(terminal).write("x\n")
        terminal.wait_for("[cut: max_tokens")
