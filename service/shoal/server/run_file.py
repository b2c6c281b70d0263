"""A small file for each running server, by which `shoal ps` finds those of the same user.

It lies in a folder of the user alone, under $XDG_RUNTIME_DIR or the folder for temporary files, has
mode 0600 and holds no secret. A server that cannot write one runs without. What a killed server
left is noticed by the process's number and the time that it began, and removed.
"""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFile:
    """A server that runs. `began`: seconds since 1970 at which its process began."""

    pid: int
    began: float
    url: str


def run_folder() -> Path:
    """Where the files lie; it need not exist."""
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "shoal"
    return Path(tempfile.gettempdir()) / f"shoal-{os.getuid()}"


@contextmanager
def run_file(url: str) -> Iterator[None]:
    """Says that this process serves at `url`, as long as the block runs."""
    path = None
    with contextlib.suppress(OSError):
        path = _write(RunFile(os.getpid(), _began(os.getpid()) or 0.0, url))
    try:
        yield
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink()


def running_servers() -> list[RunFile]:
    """Servers of this user, the oldest first; removes the files of those that are gone."""
    folder = run_folder()
    if not _is_ours(folder):
        return []
    found = []
    for path in folder.glob("*.json"):
        noted = _read(path)
        if noted is not None and _began(noted.pid) == noted.began:
            found.append(noted)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return sorted(found, key=lambda noted: noted.began)


def _write(noted: RunFile) -> Path | None:
    """The file appears whole or not at all. Raises OSError."""
    folder = run_folder()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_ours(folder):
        return None
    running_servers()  # removes what others left
    path, unfinished = folder / f"{noted.pid}.json", folder / f"{noted.pid}.new"
    with contextlib.suppress(FileNotFoundError):
        unfinished.unlink()
    with open(unfinished, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        json.dump(asdict(noted), file)
    unfinished.replace(path)
    return path


def _read(path: Path) -> RunFile | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        noted = RunFile(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    kinds = (type(noted.pid), type(noted.began), type(noted.url))
    return noted if kinds == (int, float, str) else None


def _is_ours(folder: Path) -> bool:
    """A folder of this user that no other can write to: under /tmp somebody else could have made
    one of its name."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o022
    return is_private and status.st_uid == os.getuid()


def _began(pid: int) -> float | None:
    """None where there is no such process."""
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None
