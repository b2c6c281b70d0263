"""The file by which `shoal ps` finds a running server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.server.run_file import run_file, run_folder, running_servers

URL = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "shoal"


def test_a_server_is_found_while_it_runs_and_its_file_is_private(folder: Path) -> None:
    with run_file(URL):
        (server,) = running_servers()
        assert (server.pid, server.url) == (os.getpid(), URL)
        (file,) = folder.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []
    assert running_servers() == []


def test_what_a_killed_server_left_is_removed(folder: Path) -> None:
    with run_file(URL):
        (file,) = folder.iterdir()
        mine = json.loads(file.read_text())
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        for number, left in enumerate(
            [
                mine | {"pid": ended.pid},
                mine | {"began": mine["began"] - 1},  # another process of that number
                mine | {"more": 1},
                mine | {"pid": "1"},
                mine | {"pid": 10**30},
                [],
            ]
        ):
            (folder / f"{number}.json").write_text(json.dumps(left))
        (folder / "9.json").write_text("{")
        assert [server.pid for server in running_servers()] == [os.getpid()]
        assert [each.name for each in folder.iterdir()] == [file.name]


def test_without_a_runtime_folder_it_lies_under_tmp_by_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert run_folder().name == f"shoal-{os.getuid()}"


@pytest.mark.parametrize("obstacle", ["missing", "file", "link", "open to others"])
def test_where_nothing_can_be_written_safely_the_server_runs_without(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    if obstacle == "missing":
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    elif obstacle == "file":
        folder.write_text("")
    elif obstacle == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with run_file(URL):
        assert running_servers() == []
    for place in (tmp_path / "elsewhere", folder):
        assert not place.is_dir() or list(place.iterdir()) == []
