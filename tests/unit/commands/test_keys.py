"""`shoal keys`: a key is shown once, the file holds its hash, and the server takes it."""

import json
import stat
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from shoal.bridge.supervisor import _child_environment
from shoal.cli import build_app
from shoal.server.auth import KeyRing
from shoal.server.keys import read_keys_file


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(build_app(False), ["keys", *arguments], input=given)


def test_a_key_is_printed_once_and_kept_as_a_hash() -> None:
    added = run(
        "add", "ann", "--role", "gateway", "--model", "m1", "--model", "m2", "--weight", "2.5",
        "--requests-per-minute", "60", "--max-priority", "-3",
    )  # fmt: skip
    assert added.exit_code == 0, added.output
    secret = added.stdout.strip()
    content = Path("keys.toml").read_text()
    assert secret not in content
    assert stat.S_IMODE(Path("keys.toml").stat().st_mode) == 0o600
    run("add", "bob")
    ann, bob = read_keys_file(Path("keys.toml"))
    assert (ann.name, ann.role, ann.models) == ("ann", "gateway", {"m1", "m2"})
    assert (ann.weight, ann.max_priority, ann.limits.requests_per_minute) == (2.5, -3, 60)
    assert (bob.name, bob.role, bob.models, bob.max_priority) == ("bob", "user", None, 0)
    ring = KeyRing([])
    ring.set_file_keys([ann, bob])
    assert ring.find({"x-api-key": secret}) is ann


def test_a_list_shows_rights_and_no_hash() -> None:
    run("add", "ann", "--max-queue", "4")
    shown = run("list").stdout
    assert shown.startswith("ann role=user")
    assert "max_queue=4" in shown
    assert "sha256" not in shown
    assert json.loads(run("list", "--json").stdout)[0]["name"] == "ann"


def test_a_hash_is_that_of_the_key_without_its_line_end() -> None:
    digest = run("hash", given="key-b\n").stdout.strip()
    assert KeyRing([f"bob:sha256:{digest}"]).find({"x-api-key": "key-b"}).name == "bob"
    assert run("hash", given="").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "ann", "--role", "boss"], "--role: "),
        (["add", "a:b"], "NAME: "),
        (["add", "ann", "--weight", "0"], "--weight: "),
        (["list"], "keys.toml: the keys file cannot be read"),
    ],
)
def test_a_mistake_is_named_and_changes_nothing(arguments: list[str], words: str) -> None:
    failed = run(*arguments)
    assert failed.exit_code == 2
    assert words in failed.stderr
    assert not Path("keys.toml").exists()


def test_a_name_is_taken_once() -> None:
    run("add", "ann")
    again = run("add", "ann")
    assert (again.exit_code, "already" in again.stderr) == (1, True)


def test_the_engine_inherits_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_API_KEYS", "SHOAL_ADMIN_KEYS", "SHOAL_API_KEY"):
        monkeypatch.setenv(name, "CANARY")
    monkeypatch.setenv("SHOAL_OTHER", "kept")
    environment = _child_environment()
    assert "CANARY" not in environment.values()
    assert environment["SHOAL_OTHER"] == "kept"
