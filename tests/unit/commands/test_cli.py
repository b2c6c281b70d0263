"""The command line as a whole: what it offers, what it refuses, what it loads."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shoal import __version__
from shoal.cli import NEEDED, build_app, main

from .fake_openai import FakeServer, running

ROOT = Path(__file__).parents[3]
SERVICE = str(ROOT / "service")


def invoke(*args: str, text: str | None = None) -> Result:
    return CliRunner().invoke(build_app(with_serve_flags=False), args, input=text)


def test_the_version_is_the_packages() -> None:
    assert invoke("--version").stdout == f"shoal {__version__}\n"


COMMANDS = [
    "serve", "run", "chat", "complete", "ps", "top", "bench", "models", "pull", "check", "doctor",
    "train", "keys",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(command: str) -> None:
    assert command in invoke("--help").stdout
    result = CliRunner().invoke(build_app(), [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def complete(words: str) -> list[str]:
    """What a shell is given for the last word of a line."""
    done = subprocess.run(
        [sys.executable, "-m", "shoal"],
        env={
            "PYTHONPATH": SERVICE, "_SHOAL_COMPLETE": "complete_bash", "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1), "SHOAL_BASE_URL": "http://127.0.0.1:1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("shoal ser", "serve"),
        ("shoal serve --max-queue-w", "--max-queue-wait"),
        ("shoal run minn", "minnow"),
        ("shoal run models/minn", "models/minnow/"),
        ("shoal chat --model minn", "minnow"),
        ("shoal pull smol", "smollm2"),
        ("shoal models --add smol", "smollm2"),
    ],
)
def test_a_shell_completes_commands_flags_and_models(words: str, found: str) -> None:
    assert found in complete(words)


def test_an_unknown_command_names_the_nearest() -> None:
    result = invoke("srve")
    assert result.exit_code == 2
    assert "Did you mean 'serve'?" in result.stderr


def test_the_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from shoal.cli import build_app\n"
        "try: build_app(False)(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pydantic', 'httpx', 'fastapi', 'numpy', 'asyncio', 'matplotlib'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": SERVICE}, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stderr


def test_without_the_extra_one_plain_line_says_how_to_install_it() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "shoal"],  # -S: no installed packages
        env={"PYTHONPATH": SERVICE},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "shoal: the commands need more packages (fastapi, fastapi_offline, starlette, ...): "
        "pip install 'shoal[server]'\n"
    )


def test_a_package_that_is_missing_is_noticed_before_any_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "orjson" else find(name)
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "(orjson): pip install" in capsys.readouterr().err


def test_what_the_commands_need_is_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        re.split(r"[><=;]", requirement)[0].replace("-", "_")
        for requirement in project["optional-dependencies"]["server"]
        if ";" not in requirement
    ]
    assert sorted(NEEDED) == sorted(needed)


@pytest.mark.parametrize("command", ["run m x", "chat", "complete x", "top", "bench", "models"])
def test_every_command_takes_the_address_the_same_way(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--base-url`, then SHOAL_BASE_URL, then OPENAI_BASE_URL."""
    arguments, refused = command.split(), "http://127.0.0.1:1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:3")
    assert "no server at http://127.0.0.1:3" in invoke(*arguments, text="Hi\n").stderr
    monkeypatch.setenv("SHOAL_BASE_URL", "http://127.0.0.1:2")
    assert "no server at http://127.0.0.1:2" in invoke(*arguments, text="Hi\n").stderr
    result = invoke(*arguments, "--base-url", refused, text="Hi\n")
    assert f"no server at {refused}" in result.stderr
    assert result.exit_code == 1


def test_complete_writes_the_text_and_nothing_else() -> None:
    with running(FakeServer()) as server:
        result = invoke("complete", "The", "--max-tokens", "3", "--base-url", server.url)
    assert (result.exit_code, result.stdout) == (0, " blue sky sea")


def test_complete_sends_what_was_asked() -> None:
    with running(FakeServer()) as server:
        flags = ["--temperature", "0", "--seed", "7", "--stop", "a", "--stop", "b", "--model", "m"]
        invoke("complete", "-", "--echo", *flags, "--base-url", server.url, text="Hé\n")
    (body,) = server.asked
    assert body["prompt"] == "Hé\n"
    assert (body["temperature"], body["seed"], body["stop"]) == (0, 7, ["a", "b"])
    assert (body["model"], body["stream"]) == ("m", True)
    assert "top_p" not in body


def test_complete_can_ask_for_a_form(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "integer"}')
    with running(FakeServer()) as server:
        invoke("complete", "x", "--json-schema", str(schema), "--base-url", server.url)
        invoke("complete", "x", "--regex", "[0-9]+", "--base-url", server.url)
    forms = [body["structured_outputs"] for body in server.asked]
    assert forms == [{"json": {"type": "integer"}}, {"regex": "[0-9]+"}]
    schema.write_text("{")
    for wrong, message in (
        ([str(schema), "--regex", "x"], "not both"),
        ([str(schema)], "is not JSON"),
        ([str(tmp_path / "none")], "cannot read"),
    ):
        result = invoke("complete", "x", "--json-schema", *wrong)
        assert (result.exit_code, message in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [["complete", "The"], ["chat"]])
def test_without_a_name_the_first_model_that_the_server_lists_is_used(command: list[str]) -> None:
    with running(FakeServer()) as server:
        invoke(*command, "--base-url", server.url, text="Hé\n")
    assert server.asked[-1]["model"] == "tiny-a"


@pytest.mark.parametrize("command", [["complete", "x"], ["chat"], ["models"], ["top", "--once"]])
def test_without_a_server_the_error_says_how_to_start_one(command: list[str]) -> None:
    with running(FakeServer()) as server:
        pass
    result = invoke(*command, "--base-url", server.url)
    assert result.exit_code == 1
    assert f"no server at {server.url}: start one with `shoal serve`" in result.stderr
    assert result.stdout == ""


def test_a_refused_request_is_one_line_with_the_servers_words() -> None:
    with running(FakeServer(fail_with=(404, "model_not_found"))) as server:
        result = invoke("complete", "x", "--base-url", server.url)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "model_not_found" in line


def test_chat_reads_one_message_per_line_when_there_is_no_terminal() -> None:
    with running(FakeServer()) as server:
        result = invoke(
            "chat", "--max-tokens", "2", "--base-url", server.url, text="one\n\n/new\ntwo\n"
        )
    assert result.exit_code == 0
    assert result.stdout == " blue sky\n blue sky\n"
    assert "conversation forgotten" in result.stderr
    assert [len(body["messages"]) for body in server.asked] == [1, 1]


def test_chat_takes_several_lines_between_quotes_from_a_pipe_too() -> None:
    lines = '"""one\n/two\n"""\n/edit\n/retry\n"""open'
    with running(FakeServer()) as server:
        result = invoke("chat", "--max-tokens", "1", "--base-url", server.url, text=lines)
    asked = [body["messages"][-1]["content"] for body in server.asked]
    assert asked == ["one\n/two", "one\n/two"]
    assert "/edit needs a terminal" in result.stderr
    assert result.stdout == " blue\n blue\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--base-url", "http://10.1.2.3"], "10.1.2.3 is not this machine"),
        (["--base-url", "nothing://"], "is not an address"),
        (["--concurrency", "1,x"], "--concurrency '1,x'"),
        (["--concurrency", "0"], "--concurrency '0'"),
        (["--json", "/no/such/folder/x.json"], "folder /no/such/folder does not exist"),
    ],
)
def test_bench_refuses_what_it_cannot_do_before_any_load(args: list[str], message: str) -> None:
    result = invoke("bench", *args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_training_adapters_needs_a_model_to_adapt() -> None:
    result = invoke("train", "--out", "x", "--data", "y", "--lora", "4")
    assert result.exit_code == 2
    assert "--from" in result.stderr


def test_training_without_its_data_is_one_plain_line(tmp_path: Path) -> None:
    result = invoke("train", "--out", str(tmp_path / "m"), "--data", str(tmp_path / "none.txt"))
    assert result.exit_code == 2
    assert "none.txt is not a file" in result.stderr
