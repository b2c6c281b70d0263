"""The conversation of `shoal chat`, with the real SDK against a loopback server."""

import json
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shoal import Client
from shoal import Error as SdkError
from shoal.client.testing import DONE, MockServer, chat_event
from shoal.commands import chat
from shoal.commands.chat import HELP, Session

from .fake_openai import FakeServer, running


@contextmanager
def talking(server: FakeServer) -> Iterator[Session]:
    with running(server), Client(base_url=server.url, max_retries=0) as client:
        yield Session(client, max_tokens=3)


def test_every_turn_sends_the_whole_conversation() -> None:
    server = FakeServer()
    with talking(server) as session:
        assert "".join(session.ask("one")) == " blue sky sea"
        list(session.ask("two"))
    assert [turn["role"] for turn in server.asked[1]["messages"]] == ["user", "assistant", "user"]
    assert server.asked[1]["messages"][1]["content"] == " blue sky sea"


class LosesCtrlC:
    """A session in whose answer Ctrl-C comes where Python throws its exception away."""

    def ask(self, line: str) -> Generator[str]:
        for piece in ("one", "two", "three"):
            if piece == "two":
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            yield piece


def test_no_ctrl_c_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    chat._print_answer(LosesCtrlC(), "x")  # type: ignore[arg-type]
    said = capsys.readouterr()
    assert said.out == "onetwo\n"
    assert "[stopped]" in said.err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    with talking(FakeServer(token_delay_s=0.05)) as session:
        answer = session.ask("one")
        assert next(answer) == " blue"
        answer.close()
        assert session.turns[-1] == {"role": "assistant", "content": " blue"}


def test_a_question_that_failed_is_forgotten() -> None:
    with talking(FakeServer(fail_with=(500, "internal_error"))) as session:
        with pytest.raises(SdkError):
            list(session.ask("one"))
        assert session.turns == []


def test_reset_forgets_and_a_system_message_comes_first() -> None:
    server = FakeServer()
    with talking(server) as session:
        list(session.ask("one"))
        session.command("/reset")
        assert session.messages == []
        session.command("/system Be brief.")
        list(session.ask("two"))
        assert [turn["role"] for turn in server.asked[-1]["messages"]] == ["system", "user"]
        session.command("/system")
        assert session.messages == []


def test_a_model_can_be_chosen_among_those_there_are() -> None:
    with talking(FakeServer()) as session:
        assert session.command("/model") == "models: tiny-a"
        assert "no model other" in session.command("/model other")
        assert session.model is None
        assert session.command("/model tiny-a") == "model tiny-a"
        assert session.model == "tiny-a"


def test_a_conversation_is_saved_as_json(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    with talking(FakeServer(words=("é",))) as session:
        list(session.ask("one"))
        assert session.command(f"/save {file}") == f"saved to {file}"
        saved = json.loads(file.read_text(encoding="utf-8"))
        assert saved["messages"] == session.messages
        assert session.command(f"/save {tmp_path}").startswith("cannot write")
        assert session.command("/save") == "/save needs a file name"


def test_help_names_every_command_and_others_are_refused() -> None:
    with talking(FakeServer()) as session:
        assert session.command("/help") == HELP
        assert "/help" in session.command("/nonsense")
    for name in ("reset", "system", "model", "save", "help", "quit"):
        assert f"/{name}" in HELP


def test_reasoning_is_shown_beside_the_answer_and_not_kept() -> None:
    server, shown = MockServer(), []
    deltas = ({"role": "assistant", "reasoning_content": "Hm"}, {"reasoning_content": "."})
    answer = chat_event({"content": "Blue"}), chat_event({}, finish_reason="stop")
    server.stream(*map(chat_event, deltas), *answer, DONE)
    session = Session(server.client(), show_reasoning=shown.append)
    assert list(session.ask("one")) == ["Blue"]
    assert "".join(shown) == "Hm."
    assert session.turns[-1] == {"role": "assistant", "content": "Blue"}
