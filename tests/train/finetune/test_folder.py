"""A folder or a file is the old or the new one, whole, whatever ends the writing."""

import ctypes
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shoal.checkpoint.lock import verify_lock
from shoal.train.config import RecipeError
from shoal.train.finetune import folder as module
from shoal.train.finetune.folder import check_out, replace_file, replace_folder
from tests.fakes.kills import kills_at_every_step, kills_at_random_times

NAMES = ("a.bin", "b.bin", "c.bin")


def writes(value: int, size: int = 1000) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in NAMES:
            (folder / name).write_bytes(bytes([value]) * size)

    return write


def values(out: Path) -> set[int]:
    """Of the bytes in the files, which the lock holds to be whole."""
    verify_lock(out, [out / name for name in NAMES])
    return {byte for name in NAMES for byte in (out / name).read_bytes()}


def beside(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def refusal(out: Path, **more: Path) -> str:
    """Of the check and of the writing, which must agree and leave everything as it was."""
    before = sorted((path, path.lstat().st_mtime_ns) for path in out.parent.rglob("*"))
    with pytest.raises(RecipeError) as checked:
        check_out(out, **more)
    with pytest.raises(RecipeError) as caught:
        replace_folder(out, writes(7), **more)
    assert str(caught.value) == str(checked.value)
    after = sorted((path, path.lstat().st_mtime_ns) for path in out.parent.rglob("*"))
    assert after == before
    return str(caught.value)


def test_a_new_folder_and_one_that_replaces_it(tmp_path: Path) -> None:
    out = tmp_path / "models" / "mine"
    replace_folder(out, writes(1))
    assert values(out) == {1}
    assert oct(out.stat().st_mode) == oct(0o40777 & ~_umask())
    out.chmod(0o750)
    replace_folder(out, writes(2))
    assert values(out) == {2}
    assert oct(out.stat().st_mode & 0o777) == oct(0o750)
    assert beside(out) == []
    assert all((out / name).stat().st_mode & 0o777 == 0o666 & ~_umask() for name in NAMES)


def test_what_the_old_lock_does_not_name_goes_along(tmp_path: Path) -> None:
    out = tmp_path / "mine"

    def more(folder: Path) -> None:
        writes(1)(folder)
        (folder / "inner").mkdir()
        (folder / "inner" / "old.txt").write_text("old")

    replace_folder(out, more)
    (out / "MODEL.md").write_text("by hand")
    (out / "notes").mkdir()
    (out / "notes" / "one.txt").write_text("note")
    (out / "link").symlink_to("notes/one.txt")
    replace_folder(out, writes(2))
    assert values(out) == {2}
    assert (out / "MODEL.md").read_text() == "by hand"
    assert (out / "notes" / "one.txt").read_text() == "note"
    assert os.readlink(out / "link") == "notes/one.txt"
    assert not (out / "inner").exists()
    locked = json.loads((out / "lock.json").read_text())["files"]
    assert sorted(locked) == sorted(NAMES)


@pytest.mark.parametrize("problem", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("has_old", [True, False])
def test_an_error_on_the_way_leaves_the_old_folder(
    tmp_path: Path, problem: BaseException, has_old: bool
) -> None:
    out = tmp_path / "mine"
    if has_old:
        replace_folder(out, writes(1))

    def fail(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"half")
        raise problem

    with pytest.raises((RecipeError, KeyboardInterrupt)) as caught:
        replace_folder(out, fail)
    if isinstance(problem, OSError):
        assert str(caught.value) == (
            f"{out} cannot be written: no space left. What was there before is as it was; free "
            "some space and run the same command again"
        )
    assert beside(out) == []
    assert out.exists() == has_old
    assert not has_old or values(out) == {1}


_LIMITED = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
import torch
from shoal.train.finetune.folder import replace_file, replace_folder
def write(folder):
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(b"x" * 4000)
    (folder / "c.bin").write_bytes(b"x" * 6000)
for call in (
    lambda: replace_folder(Path(sys.argv[1]), write),
    lambda: replace_file(Path(sys.argv[2]), lambda file: torch.save(torch.zeros(9999), file)),
):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_file_system_that_takes_no_more_is_one_sentence(tmp_path: Path) -> None:
    out, file = tmp_path / "mine", tmp_path / "checkpoint.pt"
    replace_folder(out, writes(1))
    file.write_bytes(b"old")
    command = [sys.executable, "-c", _LIMITED, str(out), str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(" cannot be written: ")[0] for line in lines] == [
        f"RecipeError {out}",
        f"RecipeError {file}",
    ]
    assert values(out) == {1}
    assert file.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "mine"]


def test_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount a small file system")
    try:
        out = disk / "mine"
        replace_folder(out, writes(1))
        with pytest.raises(RecipeError, match=r"no space left on device.*free some space"):
            replace_folder(out, writes(2, 40_000))
        assert values(out) == {1}
        assert beside(out) == []
        with pytest.raises(RecipeError, match="no space left"):
            replace_file(disk / "c.pt", lambda file: torch.save(torch.zeros(99_999), file))
        assert beside(out) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_must_not_be_replaced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    replace_folder(base, writes(1))
    assert "is the model that is trained further" in refusal(base, base=base)
    assert "lie one in the other" in refusal(base / "out", base=base)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base.gguf").write_bytes(b"GGUF")
    assert "lie one in the other" in refusal(
        tmp_path / "models", base=tmp_path / "models" / "base.gguf"
    )
    (tmp_path / "alias").symlink_to(base)
    assert f"is a link: name the folder itself, {base}" in refusal(tmp_path / "alias")
    (tmp_path / "dangling").symlink_to("nothing")
    assert "is a link" in refusal(tmp_path / "dangling")
    assert "is the model that is" in refusal(base, base=tmp_path / "alias")
    (tmp_path / "file").write_text("x")
    assert "is a file" in refusal(tmp_path / "file")
    assert "file is a file" in refusal(tmp_path / "file" / "mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    assert "holds cat.jpg and no lock.json" in refusal(tmp_path / "photos")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "lock.json").write_text("{")
    assert "lock.json is not valid JSON" in refusal(tmp_path / "broken")
    monkeypatch.chdir(base)
    assert "is the folder you are in, or one above" in refusal(tmp_path)
    assert "is the folder you are in" in refusal(Path("."))
    with pytest.raises(RecipeError, match="move it out"):
        check_out(tmp_path / "new", run_dir=tmp_path / "new" / "run")
    assert values(base) == {1}


def test_a_folder_with_texts_only_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "mine" / ".git").mkdir(parents=True)
    (tmp_path / "mine" / "MODEL.md").write_text("by hand")
    (tmp_path / "mine" / "LICENSE").write_text("mine")
    replace_folder(tmp_path / "mine", writes(1))
    assert values(tmp_path / "mine") == {1}
    assert {"MODEL.md", "LICENSE", ".git"} < {path.name for path in (tmp_path / "mine").iterdir()}


_AS_NOBODY = """
import os, sys
from pathlib import Path
from shoal.train.config import RecipeError
from shoal.train.finetune.folder import check_out, replace_folder
os.setuid(65534)
for call in (check_out, lambda out: replace_folder(out, print)):
    try:
        call(Path(sys.argv[1]))
    except RecipeError as error:
        print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_above_that_is_read_only(tmp_path: Path) -> None:
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    command = [sys.executable, "-c", _AS_NOBODY, str(tmp_path / "mine")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sentence = f"{tmp_path / 'mine'} cannot be written: {tmp_path} is read-only for you"
    assert found.splitlines() == [sentence] * 2
    assert list(tmp_path.iterdir()) == []


# --- without the exchange, and after kills --------------------------------------------------------


def no_exchange(one: Path, other: Path) -> bool:
    return False


def test_two_renames_where_names_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_exchange", no_exchange)
    out = tmp_path / "mine"
    for value in (1, 2, 3):
        replace_folder(out, writes(value))
        assert values(out) == {value}
        assert beside(out) == []
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if ".new-" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(RecipeError, match="input/output error"):
        replace_folder(out, writes(4))
    assert values(out) == {3}
    assert beside(out) == []


def test_a_kill_between_two_renames_is_made_good(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    replace_folder(out, writes(1))
    out.rename(tmp_path / ".mine.old-x")
    check_out(out)
    assert values(out) == {1}
    assert beside(out) == []


def test_left_over_folders_go_but_not_those_in_use(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    writes(1)(tmp_path_with(tmp_path / ".mine.new-1"))
    tmp_path_with(tmp_path / ".mine2.new-1")  # of another model

    def look(folder: Path) -> None:
        writes(2)(folder)
        program = "import sys; from pathlib import Path; from shoal.train.finetune.folder import "
        command = f"{program}check_out; check_out(Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", command, str(out)], check=True)  # another run
        assert beside(out) == [folder.name, ".mine2.new-1"]

    replace_folder(out, look)
    assert values(out) == {2}
    assert beside(out) == [".mine2.new-1"]


def tmp_path_with(path: Path) -> Path:
    path.mkdir()
    return path


def test_linux_exchanges_names(tmp_path: Path) -> None:
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("no renameat2 here")
    writes(1)(tmp_path_with(tmp_path / "one"))
    writes(2)(tmp_path_with(tmp_path / "other"))
    assert module._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "a.bin").read_bytes()[0] == 2
    with pytest.raises(FileNotFoundError):
        module._exchange(tmp_path / "one", tmp_path / "nothing")


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(module, "_exchange", no_exchange)
    return str(request.param)


class Saved:
    """A folder and a file that are written again and again, each time with another value."""

    def __init__(self, above: Path, size: int) -> None:
        self.out, self.file, self.size = above / "mine", above / "checkpoint.pt", size
        self.value = 0
        self.write()
        self.found = self.read()

    def write(self) -> None:
        replace_folder(self.out, writes(self.value, self.size))
        content = torch.full((self.size,), self.value)
        replace_file(self.file, lambda file: torch.save(content, file))

    def read(self) -> tuple[int, int]:
        """The value that all of the folder has, and that of the file."""
        [of_folder], [of_file] = values(self.out), set(torch.load(self.file).tolist())
        return of_folder, of_file

    def check(self) -> None:
        """After a kill: each has the value from before or the new one. Then there is another."""
        check_out(self.out)
        found = self.read()
        assert all(new in (old, self.value) for new, old in zip(found, self.found, strict=True))
        self.found = found
        self.value = (self.value + 1) % 251


def test_a_kill_at_every_step_leaves_folder_and_file_whole(tmp_path: Path, way: str) -> None:
    """Between two renames there is no folder for a moment; the next check has it again."""
    saved = Saved(tmp_path, 1000)
    steps = 0
    for _ in kills_at_every_step(saved.write):
        steps += 1
        saved.check()
    assert steps > 30
    assert saved.read() == (saved.value, saved.value)
    assert beside(saved.out) == ["checkpoint.pt"]


@pytest.mark.slow
def test_a_kill_at_any_time_leaves_folder_and_file_whole(tmp_path: Path, way: str) -> None:
    saved = Saved(tmp_path, 200_000)
    num_killed = 0
    for was_killed in kills_at_random_times(saved.write, 200):
        num_killed += was_killed
        saved.check()
    assert num_killed > 20
    saved.write()
    assert saved.read() == (saved.value, saved.value)
    assert beside(saved.out) == ["checkpoint.pt"]


def _umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value
