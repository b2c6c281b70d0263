"""MODEL.md of a fine-tuned model: what it was made of, how, and what became of it."""

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.gguf_header import read_header
from shoal.checkpoint.hf import HuggingFaceFolder
from shoal.checkpoint.lock import CARD
from shoal.checkpoint.read import read_text

_MARK = re.compile(r"<!-- written by shoal train, ([0-9a-f]{16}) -->\n")
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)
_LICENCE = re.compile(r"^license: *[\"']?([^\s\"'#]+)", re.MULTILINE)
_MAX_SAMPLE_CHARS = 1000


class Sample(NamedTuple):
    """One held-out question with the base's answer and the new model's."""

    prompt: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says."""

    name: str
    """Of the model: its folder."""
    kind: Literal["adapter", "model"]
    base: str
    """As the user gave it."""
    base_licence: str | None
    """As the base says it; see `read_licence`."""
    data: str
    """Name of the file."""
    num_rows: int
    data_sha256: str
    command: str
    """The whole line."""
    settings: Mapping[str, str]
    """Name -> value, in the order to be shown."""
    held_out: tuple[float, float] | None
    """Nats per learned token on the held-out rows, before and after; None without such rows."""
    num_held_out: int
    """Rows."""
    learned_tokens: int
    seconds: float
    processor: str
    versions: Mapping[str, str]
    """Package -> version."""
    samples: Sequence[Sample]


def write_card(folder: Path, facts: CardFacts, earlier: Path | None = None) -> bool:
    """Write `folder`/MODEL.md. `earlier`: the folder that this one replaces. A card there that was
    written or changed by hand is kept instead; then False. Raises OSError."""
    if earlier is not None and _is_by_hand(earlier / CARD):
        shutil.copyfile(earlier / CARD, folder / CARD)
        return False
    text = _card(facts)
    mark = f"<!-- written by shoal train, {_digest(text)} -->\n"
    (folder / CARD).write_text(text + mark, encoding="utf-8")
    return True


def read_licence(files: ModelFiles) -> str | None:
    """The licence that a model's card (README.md) or a GGUF file names; None where neither does.
    Raises ModelFolderError for a file that cannot be read."""
    if not isinstance(files, HuggingFaceFolder):
        licence = read_header(files.path).metadata.get("general.license")
        return licence if isinstance(licence, str) else None
    path = files.path / "README.md"
    front = _FRONT_MATTER.match(read_text(path)) if path.is_file() else None
    found = _LICENCE.search(front[1]) if front is not None else None
    return found[1] if found is not None else None


def _is_by_hand(path: Path) -> bool:
    if not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    mark = _MARK.search(text)
    return mark is None or mark[1] != _digest(text[: mark.start()]) or text[mark.end() :] != ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _card(facts: CardFacts) -> str:
    if facts.kind == "adapter":
        what, serve = "A LoRA adapter of", f"--model {facts.base} --adapter {facts.name}"
    else:
        what, serve = "A model fine-tuned from", f"--model {facts.name}"
    licence = facts.base_licence or "not stated; see the base"
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    parts = [
        f"# {facts.name}",
        f"{what} `{facts.base}`.",
        _table(
            {
                "Base": f"{facts.base} (licence: {licence})",
                "Data": f"{facts.data}, {facts.num_rows:,} rows",
                "SHA-256 of the data": facts.data_sha256,
                "Learned": f"{facts.learned_tokens:,} tokens",
                "Time": _time(facts.seconds),
                "Processor": facts.processor,
                "Versions": versions,
            }
        ),
        "## Use",
        f"    shoal serve {serve}",
        "## Held-out rows",
        _held_out(facts),
        *_samples(facts.samples),
        "## Made with",
        _indented(facts.command),
        _table(facts.settings),
    ]
    return "\n\n".join(parts) + "\n\n"


def _held_out(facts: CardFacts) -> str:
    if facts.held_out is None:
        return "No row was held out."
    before, after = facts.held_out
    return (
        f"Nats per learned token on {facts.num_held_out:,} rows that were not trained on: "
        f"{before:.3f} before, {after:.3f} after."
    )


def _samples(samples: Sequence[Sample]) -> list[str]:
    if not samples:
        return []
    parts = ["## Answers before and after"]
    for sample in samples:
        for title, text in zip(("Question", "Before", "After"), sample, strict=True):
            parts += [f"{title}:", _indented(text[:_MAX_SAMPLE_CHARS])]
    return parts


def _table(values: Mapping[str, str]) -> str:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(("| | |", "| --- | --- |", *rows))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _indented(text: str) -> str:
    """A code block, whatever is in the text."""
    return "\n".join(f"    {line}" for line in text.splitlines() or ("",))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
