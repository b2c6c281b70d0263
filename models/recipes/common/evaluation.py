"""What the evaluations of both models share: options, a connection to the server, small sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """Where to measure and how much."""

    url: str
    """Of a running server."""
    data: Path
    """Folder of the recipes' data files."""
    models: Path = Path("models")
    api_key: str | None = None
    limit: int | None = None
    """Cases or texts of each held-out set; None: all."""
    concurrency: int = 8
    """Requests at a time."""
    schema: bool = False
    """Also measure pilotfish's SNIPS answers with a schema of its frames."""
    samples: Path | None = None
    """JSON file to write minnow's twenty sample stories to."""


def connect(options: EvaluationOptions) -> httpx.Client:
    """An HTTP client of the server, with its key."""
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    return httpx.Client(base_url=options.url, headers=headers, timeout=120.0)


def share(conditions: Iterable[bool]) -> float:
    """How many are true, 0 to 1."""
    values = list(conditions)
    return sum(values) / max(1, len(values))
