"""Writes a folder or a file whole or not at all, also where the process is killed or the disk full.

What is new is written beside the old under a name of its own, forced to the disk, and only then put
in the old one's place, in one step of the file system. A run that was killed leaves at most such a
folder beside; the next one removes it.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shoal.checkpoint.lock import LOCK_FILE, locked_names, write_lock
from shoal.errors import ModelFolderError
from shoal.train.config import RecipeError

_NEW, _OLD = "new", "old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_TEXTS = (".md", ".txt", "")
"""Endings of what a person may put into a folder before the model: a card, a licence."""


def check_out(out: Path, base: Path | None = None, run_dir: Path | None = None) -> None:
    """Before hours of training: can `out` be written or replaced? `base`: the model that is read,
    a folder or a file; `run_dir`: of checkpoints and log. Removes what killed runs left beside
    `out`. Raises RecipeError that says what to do."""
    whole = _absolute(out)
    if whole.is_symlink():
        raise RecipeError(f"{out} is a link: name the folder itself, {os.path.realpath(whole)}")
    if whole.exists() and not whole.is_dir():
        raise RecipeError(f"{out} is a file: name a folder that is new or of an earlier training")
    real = whole.resolve()
    if Path.cwd().is_relative_to(real):
        raise RecipeError(f"{out} is the folder you are in, or one above it: name one inside it")
    if base is not None:
        _keep_apart(out, real, base)
    if run_dir is not None and run_dir.resolve().is_relative_to(real):
        raise RecipeError(f"the run folder {run_dir} lies in {out}, which is replaced: move it out")
    try:
        _tidy(whole)
        if whole.is_dir():
            _refuse_foreign(out, whole)
    except OSError as error:
        raise _cannot_write(out, error) from error
    above = next(folder for folder in whole.parents if folder.exists())
    if not above.is_dir():
        raise RecipeError(f"{out} cannot be written: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RecipeError(f"{out} cannot be written: {above} is read-only for you")


def replace_folder(out: Path, write: Callable[[Path], object], base: Path | None = None) -> None:
    """Put the folder that `write` fills in the place of `out`. `write` is given an empty folder;
    the lock over its files is written here. What is in `out` and not in its lock (a card written
    by hand, notes) goes along, unless `write` wrote the same name.

    On Linux the two folders change places in one step (renameat2). Where the system or the file
    system cannot, two renames do it: a kill between them leaves `out` away until the next run,
    which puts it back. Raises RecipeError; then `out` is as it was, and nothing is beside it."""
    check_out(out, base)
    whole = _absolute(out)
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        with _beside(whole) as new:
            write(new)
            write_lock(new)
            _carry_over(whole, new)
            _force_folder(new)
            _put_in_place(new, whole)
            _force(whole.parent)
    except OSError as error:
        raise _cannot_write(out, error) from error


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """The same of one file, whose folder is there. Raises RecipeError."""
    new = path.with_name(f".{path.name}.{_NEW}")
    try:
        try:
            with new.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
            _force(path.parent)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except RuntimeError as error:  # torch.save fails so at the end of a file it could not write
        if isinstance(error.__context__, OSError):
            raise _cannot_write(path, error.__context__) from error
        raise


# --- may it be replaced? --------------------------------------------------------------------------


def _keep_apart(out: Path, real: Path, base: Path) -> None:
    model = base.resolve()
    if model == real:
        raise RecipeError(f"{out} is the model that is trained further: name another folder")
    if real.is_relative_to(model) or model.is_relative_to(real):
        raise RecipeError(f"{out} and the model {base} lie one in the other: name another folder")


def _refuse_foreign(out: Path, whole: Path) -> None:
    """A folder with other things than a training wrote stays as it is."""
    try:
        if locked_names(whole) is not None:
            return
    except ModelFolderError as error:
        raise RecipeError(f"{error}: name another folder, or remove {out}") from error
    for path in whole.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() or path.suffix not in _TEXTS:
            raise RecipeError(
                f"{out} holds {path.name} and no {LOCK_FILE}, so it is not from a training: name "
                "another folder, or remove this one"
            )


# --- beside it ------------------------------------------------------------------------------------


@contextmanager
def _beside(whole: Path) -> Iterator[Path]:
    """An empty folder on the same file system, locked for as long as it is filled; removed at the
    end, whatever is in it then."""
    new = Path(tempfile.mkdtemp(prefix=_prefix(whole, _NEW), dir=whole.parent))
    try:
        handle = os.open(new, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            new.chmod(whole.stat().st_mode & 0o777 if whole.is_dir() else 0o777 & ~_umask())
            yield new
        finally:
            os.close(handle)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _tidy(whole: Path) -> None:
    """Puts back what a kill between two renames left away, and removes what killed runs left."""
    if not whole.parent.is_dir():
        return
    if not whole.exists() and (old := _left_over(whole, _OLD)):
        os.rename(old[0], whole)
    for path in (*_left_over(whole, _NEW), *_left_over(whole, _OLD)):
        if not _is_in_use(path):
            shutil.rmtree(path, ignore_errors=True)


def _left_over(whole: Path, kind: str) -> list[Path]:
    prefix = _prefix(whole, kind)
    return sorted(path for path in whole.parent.iterdir() if path.name.startswith(prefix))


def _prefix(whole: Path, kind: str) -> str:
    return f".{whole.name}.{kind}-"


def _is_in_use(path: Path) -> bool:
    """Does another process fill it now? The lock ends with its process, however that ends."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _carry_over(whole: Path, new: Path) -> None:
    """Hard links, so that it costs neither time nor space."""
    if not whole.is_dir():
        return
    locked = {name.split("/")[0] for name in locked_names(whole) or ()} | {LOCK_FILE}
    for path in whole.iterdir():
        target = new / path.name
        if path.name in locked or os.path.lexists(target):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, target, symlinks=True, copy_function=_link)
        else:
            _link(path, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


# --- in its place ---------------------------------------------------------------------------------


def _put_in_place(new: Path, whole: Path) -> None:
    """`new` becomes `whole`; what was there has then the name of `new`, or is removed."""
    if not whole.exists():
        os.rename(new, whole)
    elif not _exchange(new, whole):
        old = Path(tempfile.mkdtemp(prefix=_prefix(whole, _OLD), dir=whole.parent))
        os.rename(whole, old)  # an empty folder is replaced
        try:
            os.rename(new, whole)
        except OSError:
            os.rename(old, whole)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step. False where the system or the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # macOS, musl
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if rename(*names, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _force_folder(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_symlink():
            _force(path)
    _force(folder)


def _force(path: Path) -> None:
    """To the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value


def _cannot_write(path: Path, error: OSError) -> RecipeError:
    reason = (error.strerror or str(error)).lower()
    advice = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to that"
    return RecipeError(
        f"{path} cannot be written: {reason}. What was there before is as it was; {advice} and "
        "run the same command again"
    )
