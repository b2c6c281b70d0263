"""From raw figures to medians, ratios and marks, as text and as JSON. Pure functions.

A ratio is made within each round, where both sides met the same state of the machine, and the
median over the rounds counts.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .measure import LevelResult, StartResult
from .shapes import SHAPES

DEFAULT_MODELS = "default models"  # in place of a shape's name
LARGE_SHAPES = ("135m", "0.5b")
JSON_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """One promise. `value` None: not measured. `at_most`: smaller is better."""

    text: str
    value: float | None
    wanted: float
    at_most: bool = False
    unit: str = "×"

    @property
    def passed(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted


@dataclass(frozen=True, slots=True)
class Figures:
    """All that was measured."""

    levels: list[LevelResult]
    starts: list[StartResult]
    settings: dict[str, str]  # by server
    notes: list[str]

    def rates(self, key: "Key") -> dict[int, float]:
        """Tokens per second by round."""
        return {level.round: level.tokens_per_s for level in self.levels if key.fits(level)}

    def first_tokens(self, key: "Key") -> dict[int, float]:
        """Median time to first token by round, milliseconds."""
        found = {level.round: level.ttft_p50_ms for level in self.levels if key.fits(level)}
        return {number: value for number, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Key:
    """Which results."""

    family: str
    weights: str
    shape: str
    clients: int
    streamed: bool = True

    def fits(self, level: LevelResult) -> bool:
        return (level.family, level.weights, level.shape, level.clients, level.streamed) == (
            self.family,
            self.weights,
            self.shape,
            self.clients,
            self.streamed,
        )


def ratio(above: dict[int, float], below: dict[int, float]) -> float | None:
    """Median of the quotients of the rounds both sides have; None without any."""
    quotients = [
        above[number] / below[number] if below[number] else math.inf
        for number in sorted(above.keys() & below.keys())
    ]
    return statistics.median(quotients) if quotients else None


def marks(figures: Figures) -> list[Mark]:
    """The marks of the comparison, in the order in which they were set."""
    return [*_small(figures), *_large(figures), *_start(figures)]


def _small(figures: Figures) -> list[Mark]:
    def rates(family: str, clients: int, streamed: bool = True) -> dict[int, float]:
        return figures.rates(Key(family, "bf16", "14m", clients, streamed))

    def firsts(family: str) -> dict[int, float]:
        return figures.first_tokens(Key(family, "bf16", "14m", 32))

    servers = ("llama-server", "vllm")
    seen = " and ".join(family for family in servers if rates(family, 32)) or "none measured"
    better = _least(ratio(rates("shoal", 32), rates(family, 32)) for family in servers)
    # The better peer is the one with the shorter wait, so the larger quotient counts.
    sooner = _most(ratio(firsts("shoal"), firsts(family)) for family in servers)
    openvino = "14M bf16 through HTTP, streamed, against OpenVINO in process"
    return [
        Mark("14M bf16, 1 client: llama-server", ratio(rates("shoal", 1), rates(servers[0], 1)), 2),
        Mark(f"14M bf16, 32 clients streamed: better peer of {seen}", better, 3),
        Mark(f"{openvino}, 32", ratio(rates("shoal", 32), rates("openvino", 32, False)), 1.5),
        Mark(f"{openvino}, 1", ratio(rates("shoal", 1), rates("openvino", 1, False)), 3),
        Mark(
            "14M bf16, 128 clients: Shoal's own at 32",
            ratio(rates("shoal", 128), rates("shoal", 32)),
            0.95,
        ),
        Mark(
            f"14M bf16, first token p50 at 32: better peer of {seen}", sooner, 1 / 3, at_most=True
        ),
    ]


def _large(figures: Figures) -> list[Mark]:
    def against_llama(shape: str, weights: str, clients: int) -> Mark:
        sides = [
            figures.rates(Key(family, weights, shape, clients))
            for family in ("shoal", "llama-server")
        ]
        label = {"135m": "135M", "0.5b": "0.5B"}[shape]
        return Mark(
            f"{label} {weights}, {clients} client{'s' if clients > 1 else ''}: llama-server",
            ratio(*sides),
            1.2,
        )

    return [
        against_llama(shape, weights, clients)
        for shape in LARGE_SHAPES
        for weights in ("bf16", "int8")
        for clients in SHAPES[shape].clients
    ]


def _start(figures: Figures) -> list[Mark]:
    starts = [start for start in figures.starts if start.shape == DEFAULT_MODELS]
    first = _median([start.first_token_s for start in starts])
    memory = _median([start.memory_after_mib * 1.048576 for start in starts])
    return [
        Mark("default models: start to first token", first, 1.0, at_most=True, unit=" s"),
        Mark("default models: memory of all processes", memory, 200, at_most=True, unit=" MB"),
    ]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def as_text(figures: Figures) -> str:
    parts = []
    for shape in dict.fromkeys(level.shape for level in figures.levels):
        levels = [level for level in figures.levels if level.shape == shape]
        parts.append(_table(f"{shape}, tokens/s", levels, lambda level: level.tokens_per_s))
        parts.append(
            _table(f"{shape}, first token p50, ms", levels, lambda level: level.ttft_p50_ms)
        )
        parts.append(
            _table(f"{shape}, first token p99, ms", levels, lambda level: level.ttft_p99_ms)
        )
        parts.append(_failures(levels))
    parts.append(_starts(figures.starts))
    parts.append("\n".join(f"{name}: {text}" for name, text in figures.settings.items()))
    parts += [f"note: {note}" for note in figures.notes]
    parts.append("\n".join(map(_line, marks(figures))))
    return "\n\n".join(part for part in parts if part)


def _table(
    title: str, levels: Sequence[LevelResult], value: Callable[[LevelResult], float | None]
) -> str:
    """Medians over the rounds: a row for each server, a column for each load."""
    loads = sorted({(not level.streamed, level.clients) for level in levels})
    rows = [[title, *(f"{n}{' plain' if plain else ''}" for plain, n in loads)]]
    for server in dict.fromkeys(level.server for level in levels):
        row = [server]
        for plain, clients in loads:
            known = [
                figure
                for level in levels
                if (level.server, level.clients, level.streamed) == (server, clients, not plain)
                and (figure := value(level)) is not None
            ]
            row.append(f"{statistics.median(known):,.0f}" if known else "–")
        rows.append(row)
    return _aligned(rows)


def _failures(levels: Sequence[LevelResult]) -> str:
    return "\n".join(
        f"failed: {level.server}, {level.clients} clients, round {level.round}: {count} × {error}"
        for level in levels
        for error, count in (level.errors or {}).items()
    )


def _starts(starts: Sequence[StartResult]) -> str:
    rows = [["start", "sequences", "first token s", "MiB", "MiB after load"]]
    for key in dict.fromkeys((start.shape, start.server, start.slots) for start in starts):
        same = [start for start in starts if (start.shape, start.server, start.slots) == key]
        shape, server, slots = key
        first, before, after = (
            statistics.median(values)
            for values in zip(
                *((s.first_token_s, s.memory_mib, s.memory_after_mib) for s in same), strict=True
            )
        )
        rows.append(
            [f"{server}, {shape}", str(slots), f"{first:.2f}", f"{before:.0f}", f"{after:.0f}"]
        )
    return _aligned(rows) if starts else ""


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _line(mark: Mark) -> str:
    verdict = {True: "pass", False: "MISS", None: "not measured"}[mark.passed]
    value = "–" if mark.value is None else f"{mark.value:.2f}{mark.unit}"
    return (
        f"{verdict:12}  {value:>10}  {'≤' if mark.at_most else '≥'} {mark.wanted:.3g}  {mark.text}"
    )


def as_json(figures: Figures, environment: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": JSON_FORMAT,
        "environment": environment,
        "settings": figures.settings,
        "notes": figures.notes,
        "marks": [_as_json(mark) for mark in marks(figures)],
        "levels": [asdict(level) for level in figures.levels],
        "starts": [asdict(start) for start in figures.starts],
    }


def _as_json(mark: Mark) -> dict[str, Any]:
    """A peer that did nothing makes an infinite ratio, which JSON cannot write: null."""
    fields = {**asdict(mark), "passed": mark.passed}
    return {**fields, "value": None} if mark.value == math.inf else fields
