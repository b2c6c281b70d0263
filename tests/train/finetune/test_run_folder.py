"""A run folder belongs to one run: another is refused with the ways out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.train.config import RecipeError
from shoal.train.run_folder import RunFolder, choose_run_dir, result_of

IDENTITY: dict[str, Any] = {
    "data": "rows.jsonl (sha256 aa)",
    "base": "tiny (weights bb)",
    "settings": {"epochs": 3.0, "batch_size": 8, "lora": {"rank": 8, "targets": ["q"]}},
}


def state_of(path: Path, identity: dict[str, Any] = IDENTITY, *, overwrite: bool = False) -> str:
    with RunFolder(path, identity).claimed(overwrite=overwrite) as state:
        return state


def changed(**values: Any) -> dict[str, Any]:
    return {**IDENTITY, **values}


def test_a_run_is_new_then_stopped_then_finished(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    assert state_of(folder) == "new"
    assert state_of(folder) == "stopped"
    for name in ("checkpoint.safetensors", "best-3.safetensors", "log.jsonl"):
        (folder / name).write_text("x")
    run = RunFolder(folder, IDENTITY)
    run.note(dtype="bfloat16")
    assert state_of(folder) == "stopped"
    run.finish({"step": 7})
    assert state_of(folder) == "finished"
    assert run.notes == {"dtype": "bfloat16", "finished": {"step": 7}}
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "run.json"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (changed(data="rows.jsonl (sha256 cc)"), "its data was rows.jsonl .sha256 aa., here it"),
        (changed(base="tiny (weights dd)"), "its base was tiny"),
        (changed(settings={**IDENTITY["settings"], "epochs": 5.0}), "its epochs was 3.0, here it"),
        (changed(settings={**IDENTITY["settings"], "batch_size": 4}), "its batch size was 8"),
        (changed(settings={**IDENTITY["settings"], "lora": None}), "its lora was"),
    ],
)
def test_another_run_in_the_same_place_is_refused_with_two_ways_out(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    state_of(tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RecipeError, match=message) as caught:
        state_of(tmp_path, other)
    for way in ("--overwrite", "--out", "--run-dir"):
        assert way in str(caught.value)
    assert (tmp_path / "run.json").read_bytes() == before


def test_settings_that_may_follow_from_other_data_are_not_named_beside_it(tmp_path: Path) -> None:
    state_of(tmp_path)
    other = changed(data="more.jsonl (sha256 ff)", settings={"epochs": 1.0})
    with pytest.raises(RecipeError) as caught:
        state_of(tmp_path, other)
    assert "more.jsonl" in str(caught.value)
    assert "epochs" not in str(caught.value)


def test_overwriting_forgets_the_other_run_and_nothing_else(tmp_path: Path) -> None:
    state_of(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_text("x")
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    other = changed(data="others.jsonl (sha256 ee)")
    assert state_of(tmp_path, other, overwrite=True) == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]
    assert state_of(tmp_path, other) == "stopped"


def test_a_folder_with_checkpoints_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("x")
    with pytest.raises(RecipeError, match="another kind of run"):
        state_of(tmp_path)


def test_a_check_compares_what_is_known_and_writes_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "none", IDENTITY).check()
    assert list(tmp_path.iterdir()) == []
    state_of(tmp_path)
    RunFolder(tmp_path, {"data": IDENTITY["data"]}).check()
    with pytest.raises(RecipeError, match="its data was rows"):
        RunFolder(tmp_path, {"data": "others.jsonl"}).check()


def test_each_output_has_a_run_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outs = [Path(name) for name in ("adapters/x", "models/x", "new/models/x")]
    found = []
    for out in outs:
        found.append(str(choose_run_dir("x", out)))
        assert choose_run_dir("x", out) == choose_run_dir("x", tmp_path / out)
        state_of(Path(found[-1]), changed(result=result_of(out)))
    assert found == ["runs/x", "runs/models-x", "runs/new-models-x"]
    assert [str(choose_run_dir("x", out)) for out in outs] == found
    shutil.rmtree("runs/x")
    assert [str(choose_run_dir("x", out)) for out in outs] == found
    assert choose_run_dir("minnow", Path("models/mine")) == Path("runs/minnow")
    state_of(Path("runs/minnow"), changed(result=result_of(Path("models/minnow"))))
    assert choose_run_dir("minnow", Path("models/mine")) == Path("runs/mine")


@pytest.mark.parametrize("content", ["{", "[]", '{"result": 3}', "\xff"])
def test_a_run_folder_of_which_nothing_can_be_told_is_left_to_the_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/run.json").write_bytes(content.encode("latin-1"))
    assert choose_run_dir("x", Path("models/x")) == Path("runs/x")


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_description_is_refused_not_guessed(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"run\.json.*--overwrite"):
        state_of(tmp_path)
    assert state_of(tmp_path, overwrite=True) == "new"


def test_a_run_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="run folder"):
        state_of(tmp_path / "file")


def test_two_processes_cannot_have_one_run_folder(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, json\n"
        "from shoal.train.run_folder import RunFolder\n"
        "folder = RunFolder(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))\n"
        "with folder.claimed(overwrite=False):\n"
        "    print('claimed', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path), json.dumps(IDENTITY)]
    other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(RecipeError, match="another process"):
            state_of(tmp_path)
    finally:
        other.communicate("")
    assert state_of(tmp_path) == "stopped"  # a process that ended has no claim
