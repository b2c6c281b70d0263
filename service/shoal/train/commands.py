"""Intent, slot and dialogue-state corpora to requests answered by one JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from shoal.train.config import Source
from shoal.train.pieces import Variant


def read_snips(records: Iterable[dict[str, Any]], source: Source) -> Iterator[list[Variant]]:
    yield from ()


def read_intents(records: Iterable[dict[str, Any]], source: Source) -> Iterator[list[Variant]]:
    yield from ()


def read_dialogue_state(
    records: Iterable[dict[str, Any]], source: Source
) -> Iterator[list[Variant]]:
    yield from ()
