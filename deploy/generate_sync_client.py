"""Writes the sync half of the SDK, `client/_sync/`, from the async half, `client/_async/`.

The sync code is the async code without `async` and `await`, and with the sync name of everything
that has one. `client/_concurrency.py` holds what cannot be derived, written in both forms.

`make fix` runs this; a test in tests/rules fails while the sync half is not up to date.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "service" / "shoal" / "client"
SOURCE, TARGET = CLIENT / "_async", CLIENT / "_sync"

HEADER = "# Generated from {source} by deploy/{script}; to update: make fix\n"

RULES = [
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[([\w.]+)\]", r"\1"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(next|close|read|iter_bytes)\b", r"\1"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAsync([A-Z]\w*)", r"\1"),  # AsyncClient, AsyncIterator, AsyncOpenAI, ...
    (r"\b(\w+)_async\b", r"\1"),  # sleep_async, run_many_async
    (r"  # noqa: ASYNC\d+", ""),
]

# Sentences that are true of one half only.
SENTENCES = {
    "The async client. The sync one is generated from it.": "The sync client, generated.",
    "Connections belong to the event loop that opened them.": "Safe to use from several threads.",
}


def to_sync(code: str) -> str:
    """The sync form of async code; not formatted."""
    for sentence, replacement in SENTENCES.items():
        code = code.replace(sentence, replacement)
    for pattern, replacement in RULES:
        code = re.sub(pattern, replacement, code)
    return code


def generated_files() -> Iterator[tuple[Path, str]]:
    """Each file of the sync half with the text it must have."""
    with TemporaryDirectory() as folder:
        for source in sorted(SOURCE.glob("*.py")):
            header = HEADER.format(source=source.relative_to(CLIENT), script=Path(__file__).name)
            (Path(folder) / source.name).write_text(header + to_sync(source.read_text()))
        # Shorter names and lines: sort and wrap anew, and drop imports that lost their use.
        _ruff("check", "--fix-only", "--quiet", "--select", "I,F401", folder)
        _ruff("format", "--quiet", folder)
        for made in sorted(Path(folder).glob("*.py")):
            yield TARGET / made.name, made.read_text()


def stale_files() -> set[str]:
    """Names of files of the sync half that are missing, outdated, or no longer generated."""
    expected = dict(generated_files())
    present = {path: path.read_text() for path in TARGET.glob("*.py")}
    both = expected.keys() | present.keys()
    return {path.name for path in both if expected.get(path) != present.get(path)}


def _ruff(*arguments: str) -> None:
    command = [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{result.stderr}")


def main() -> None:
    expected = dict(generated_files())
    for path in TARGET.glob("*.py"):
        if path not in expected:
            path.unlink()
    for path, text in expected.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
