"""The folder of one run: its checkpoints and log, and which data, base, settings and output they
are of.

A run that was stopped goes on only with the same of all of these; a folder of another run is
refused with the two ways out. One process at a time has a run folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from shoal.train.config import RecipeError

State = Literal["new", "stopped", "finished"]
FINISHED = "finished"
"""Name of the note that `finish` makes."""
RESULT = "result"
"""Name in an identity: what the run writes, an absolute path."""
_DESCRIPTION, _NOTES = "run.json", "notes"
_CHECKPOINTS = ("checkpoint*", "best-*")
_OURS = (_DESCRIPTION, *_CHECKPOINTS, "log.jsonl", "loss.png", "tokenizer.json", "tensorboard")
_MAX_NAMED = 4


def result_of(out: Path) -> str:
    """`out` as an identity has it."""
    return os.path.abspath(out)


def choose_run_dir(name: str, out: Path) -> Path:
    """The folder of the run that writes `out`, where the user names none: runs/NAME. Where that is
    of another output, it has the name of `out`, and more of its path as far as is needed:
    runs/models-x for models/x."""
    whole = Path(result_of(out))
    parts = whole.parts[1:]
    tails = ["-".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]
    paths = [Path("runs") / each for each in (name, *tails)]
    results = [_result_in(path) for path in paths]
    for wanted in (str(whole), None):
        if wanted in results:
            return paths[results.index(wanted)]
    return paths[-1]


class RunFolder:
    """`identity`: what decides the result, by name: texts, or tables of settings."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))

    @contextmanager
    def claimed(self, *, overwrite: bool) -> Iterator[State]:
        """Yields how far the run in the folder is, while no other process can have it.

        `overwrite` removes what an earlier run left. Raises `RecipeError` where the folder belongs
        to another run, or cannot be used."""
        import fcntl  # late: absent on Windows

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise RecipeError(f"the run folder {self.path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RecipeError(
                    f"another process trains in {self.path}: wait for it, or give another --run-dir"
                ) from error
            yield self._begin(overwrite)
        finally:
            os.close(handle)

    def check(self) -> None:
        """Raises `RecipeError` where the folder belongs to another run, as far as `identity` says;
        writes nothing."""
        if (self.path / _DESCRIPTION).exists():
            self._compare(
                {key: value for key, value in self._read().items() if key in self.identity}
            )

    @property
    def notes(self) -> Mapping[str, Any]:
        """What `note` kept of this run, by name."""
        found = self._read().get(_NOTES)
        return found if isinstance(found, dict) else {}

    def note(self, **values: Any) -> None:
        """Keep JSON values beside the identity, for the processes that go on with the run."""
        self._write({**self.identity, _NOTES: {**self.notes, **values}})

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Note that the result is written, with what is to be known of it; checkpoints go."""
        self.note(**{FINISHED: facts})
        self._remove(_CHECKPOINTS)

    def _begin(self, overwrite: bool) -> State:
        if overwrite:
            self._remove(_OURS)
        if not (self.path / _DESCRIPTION).exists():
            if self._found(_OURS):
                raise self._refusal("it is another kind of run")
            self._write(self.identity)
            return "new"
        before = self._read()
        before.pop(_NOTES, None)
        self._compare(before)
        return "finished" if FINISHED in self.notes else "stopped"

    def _compare(self, before: Mapping[str, Any]) -> None:
        if differences := _differences(before, self.identity):
            more = len(differences) - _MAX_NAMED
            shown = differences[:_MAX_NAMED] + ([f"and {more} more"] if more > 0 else [])
            raise self._refusal("; ".join(shown))

    def _found(self, patterns: tuple[str, ...]) -> list[Path]:
        return [path for pattern in patterns for path in self.path.glob(pattern)]

    def _remove(self, patterns: tuple[str, ...]) -> None:
        for path in self._found(patterns):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _refusal(self, reason: str) -> RecipeError:
        return RecipeError(
            f"{self.path} belongs to another run ({reason}): --overwrite forgets that run and "
            "begins anew; another --out or --run-dir keeps both"
        )

    def _read(self) -> dict[str, Any]:
        path = self.path / _DESCRIPTION
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._refusal(f"{_DESCRIPTION} cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise self._refusal(f"{_DESCRIPTION} is not an object")
        return found

    def _write(self, content: Mapping[str, Any]) -> None:
        part = self.path / f"{_DESCRIPTION}.tmp"
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path / _DESCRIPTION)


def _result_in(path: Path) -> str | None:
    """What the run in a folder writes; None where no run is there, or it cannot be told."""
    try:
        found = json.loads((path / _DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    result = found.get(RESULT) if isinstance(found, dict) else None
    return result if isinstance(result, str) else None


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, in words: texts, and only where all of these are equal, values in tables, which
    may follow from them."""
    found: list[str] = []
    within: list[str] = []
    for key in (*now, *(key for key in before if key not in now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            within += _differences(old, new)
        elif old != new:
            name = key.replace("_", " ")
            found.append(f"its {name} was {_shown(old)}, here it is {_shown(new)}")
    return found or within


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)[:100]
