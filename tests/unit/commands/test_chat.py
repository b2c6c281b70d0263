"""The conversation of `shoal chat` and its /commands, with the real SDK and a loopback server."""

import json
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from shoal import Client
from shoal import Error as SdkError
from shoal.client.testing import DONE, MockServer, chat_event, json_reply
from shoal.commands import chat
from shoal.commands.answer_view import AnswerView
from shoal.commands.conversation import Conversation, Speed
from shoal.commands.sampling import Sampling
from shoal.commands.slash_commands import HELP, SlashCommands
from shoal.commands.terminal import pick_model

from .fake_openai import FakeServer, running


@dataclass
class Talk:
    """A conversation and its commands."""

    conversation: Conversation

    def __post_init__(self) -> None:
        self.commands = SlashCommands(self.conversation)

    def ask(self, text: str) -> str:
        return "".join(self.conversation.ask(text))

    def command(self, line: str) -> str:
        return self.commands.run(line).text


@contextmanager
def talking(server: FakeServer) -> Iterator[Talk]:
    with running(server), Client(base_url=server.url, max_retries=0) as client:
        yield Talk(Conversation(client, sampling=Sampling(max_tokens=3)))


def test_every_turn_sends_the_whole_conversation() -> None:
    server = FakeServer()
    with talking(server) as talk:
        assert talk.ask("one") == " blue sky sea"
        talk.ask("two")
    assert [turn["role"] for turn in server.asked[1]["messages"]] == ["user", "assistant", "user"]
    assert server.asked[1]["messages"][1]["content"] == " blue sky sea"


class LosesCtrlC:
    """A conversation in whose answer Ctrl-C comes where Python throws its exception away."""

    def ask(self, line: str) -> Generator[str]:
        for piece in ("one", "two", "three"):
            if piece == "two":
                with suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            yield piece


def test_no_ctrl_c_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    view = AnswerView(markdown=False)
    assert chat.show_answer(LosesCtrlC(), "x", view)  # type: ignore[arg-type]
    assert capsys.readouterr().out == "onetwo\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    with talking(FakeServer(token_delay_s=0.05)) as talk:
        answer = talk.conversation.ask("one")
        assert next(answer) == " blue"
        answer.close()
        assert talk.conversation.turns[-1] == {"role": "assistant", "content": " blue"}
        assert talk.conversation.speed is None


def test_a_question_that_failed_is_forgotten() -> None:
    with talking(FakeServer(fail_with=(500, "internal_error"))) as talk:
        with pytest.raises(SdkError):
            talk.ask("one")
        assert talk.conversation.turns == []


def test_new_forgets_and_a_system_message_comes_first() -> None:
    server = FakeServer()
    with talking(server) as talk:
        talk.ask("one")
        talk.command("/new")
        assert talk.conversation.messages == []
        talk.command("/system Be brief.")
        talk.ask("two")
        assert [turn["role"] for turn in server.asked[-1]["messages"]] == ["system", "user"]
        talk.command("/system")
        assert talk.conversation.messages == []


def test_a_model_can_be_chosen_among_those_there_are() -> None:
    with talking(FakeServer()) as talk:
        assert talk.command("/model") == "models: tiny-a"
        assert "no model other" in talk.command("/model other")
        assert talk.conversation.model is None
        assert talk.command("/model tiny-a") == "model tiny-a"
        assert talk.conversation.model == "tiny-a"


def test_what_is_set_is_sent_and_off_leaves_it_to_the_model() -> None:
    server = FakeServer()
    with talking(server) as talk:
        assert talk.command("/set temperature 0.5") == "temperature: 0.5"
        talk.command("/set top_k 7")
        talk.command("/set stop two words")
        talk.ask("one")
        assert "temperature 0.5" in talk.command("/set")
        talk.command("/set temperature off")
        talk.ask("two")
    first, second = server.asked
    assert (first["temperature"], first["top_k"], first["stop"]) == (0.5, 7, ["two words"])
    assert "temperature" not in second


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("/set temperature 3", "a number from 0 to 2, or off; got 3"),
        ("/set temperature nan", "got nan"),
        ("/set top_k 1.5", "a whole number"),
        ("/set max_tokens zero", "got zero"),
        ("/set heat 1", "no setting heat; there are temperature"),
        ("/set temperature", "needs a value"),
        ("/nwe", "did you mean /new?"),
        ("/save", "needs a file name"),
        ("/load /no/such/file", "cannot read"),
        ("/retry", "no message yet"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(line: str, words: str) -> None:
    talk = Talk(Conversation(MockServer().client()))
    assert words in talk.command(line)
    assert talk.conversation.sampling == Sampling()


def test_a_conversation_is_saved_and_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    with talking(FakeServer(words=("é",))) as talk:
        talk.command("/system Be brief.")
        talk.ask("one")
        before = talk.conversation.messages
        assert talk.command(f"/save {file}") == f"saved to {file}"
        assert json.loads(file.read_text(encoding="utf-8"))["messages"] == before
        assert talk.command(f"/save {tmp_path}").startswith("cannot write")
        talk.command("/system")
        assert talk.command(f"/load {file}") == f"2 messages loaded from {file}"
        assert talk.conversation.messages == before


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ("[]", "must be an object"),
        ('{"model": "m", "messages": [], "more": 1}', "must be an object with model and messages"),
        ('{"model": "m", "messages": {}}', "must be a list"),
        ('{"model": "m", "messages": [{"role": "user"}]}', "message 1 must have"),
        ('{"model": "m", "messages": [{"role": "cook", "content": ""}]}', "role 'cook'"),
        ("{", "no saved conversation"),
        ("[" * 100_000, "no saved conversation"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, saved: str, words: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(saved)
    talk = Talk(Conversation(MockServer().client()))
    talk.conversation.turns = [{"role": "user", "content": "kept"}]
    assert words in talk.command(f"/load {file}")
    assert talk.conversation.turns == [{"role": "user", "content": "kept"}]


def test_retry_and_edit_take_the_last_message_back() -> None:
    with talking(FakeServer()) as talk:
        talk.ask("one")
        talk.ask("two")
        outcome = talk.commands.run("/edit")
        assert (outcome.edit, outcome.ask) == ("two", None)
        assert len(talk.conversation.turns) == 2
        assert talk.commands.run("/retry").ask == "one"
        assert talk.conversation.turns == []


def test_help_names_every_command_and_others_are_refused() -> None:
    talk = Talk(Conversation(MockServer().client()))
    assert talk.command("/help") == HELP
    assert "/help" in talk.command("/nonsense")
    for name in set(talk.commands.names()) - {"/exit"}:
        assert f"{name} " in HELP
    assert talk.commands.run("/quit").ends


def test_the_speed_of_an_answer_is_that_of_the_server() -> None:
    with talking(FakeServer(first_delay_s=0.05)) as talk:
        talk.ask("one")
        speed = talk.conversation.speed
    assert speed is not None
    assert (speed.num_tokens, speed.prompt_tokens) == (3, 5)
    assert speed.first_token_s >= 0.05
    shown = str(Speed(0.25, 1.25, 101, 9))
    assert shown == "101 tokens · 100 tokens/s · first token 250 ms · prompt 9 tokens"
    assert str(Speed(0.25, 1.25, None, None)) == "first token 250 ms"


VECTORS, WRITER = (
    {"id": "vectors", "object": "model", "capabilities": ["embedding"]},
    {"id": "both", "object": "model", "capabilities": ["completion", "embedding"]},
)


def listing(*models: dict[str, object]) -> MockServer:
    """A server that lists these models, whatever it is asked."""
    return MockServer(lambda seen: json_reply({"object": "list", "data": list(models)}))


def test_a_model_that_writes_no_text_is_not_chosen() -> None:
    client = listing(VECTORS, WRITER).client()
    talk = Talk(chat.begin(client, None, "", Sampling()))
    assert talk.conversation.model == "both"
    assert talk.command("/model") == "models: both"
    assert talk.command("/model vectors") == "model vectors writes no text; it makes embeddings"
    assert talk.conversation.model == "both"
    assert pick_model(client, None) == "both"
    assert pick_model(client, "vectors") == "vectors"


@pytest.mark.parametrize(("models", "named"), [((VECTORS,), None), ((VECTORS, WRITER), "vectors")])
def test_to_chat_with_a_model_that_writes_no_text_is_an_error(
    models: tuple[dict[str, object], ...], named: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        chat.begin(listing(*models).client(), named, "", Sampling())
    assert caught.value.exit_code == 2
    assert "model vectors writes no text" in capsys.readouterr().err


def test_a_model_without_a_template_continues_each_text_by_itself() -> None:
    server = FakeServer()
    with talking(server) as talk:
        talk.conversation.can_chat = False
        assert talk.ask("Once") == " blue sky sea"
    assert server.asked[0]["prompt"] == "Once"
    assert "messages" not in server.asked[0]


def test_reasoning_is_shown_beside_the_answer_and_not_kept() -> None:
    server, shown = MockServer(), []
    deltas = ({"role": "assistant", "reasoning_content": "Hm"}, {"reasoning_content": "."})
    answer = chat_event({"content": "Blue"}), chat_event({}, finish_reason="stop")
    server.stream(*map(chat_event, deltas), *answer, DONE)
    conversation = Conversation(server.client(), show_reasoning=shown.append)
    assert list(conversation.ask("one")) == ["Blue"]
    assert "".join(shown) == "Hm."
    assert conversation.turns[-1] == {"role": "assistant", "content": "Blue"}
    assert conversation.finish_reason == "stop"
