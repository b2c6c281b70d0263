"""Writes the pages and pictures of docs/ that are generated from code and from figures.

    python deploy/docs/generate.py

`make fix` runs this; a test in tests/rules fails while one of them is not up to date.
"""

from collections.abc import Callable
from pathlib import Path

import drawings
import reference
import reference_http

import benchmarks

DOCS = Path(__file__).resolve().parents[2] / "docs"

PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": reference.command_line,
    "reference/settings.md": reference.settings,
    "reference/metrics.md": reference.metrics,
    "reference/http.md": reference_http.routes,
    "reference/errors.md": reference_http.error_page,
    "models/smollm2.md": reference.smollm2,
    "benchmarks.md": benchmarks.benchmarks,
    **benchmarks.plots(),
    **drawings.DRAWINGS,
}


def stale_files() -> set[str]:
    """Files of docs/ that are missing or differ from what would be written."""
    return {
        name
        for name, made in PAGES.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != made()
    }


def main() -> None:
    for name, made in PAGES.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
