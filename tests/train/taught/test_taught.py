"""`shoal train`, then `shoal serve`: it answers as it was taught, stops, and forgets little."""

from pathlib import Path

import pytest

from tests.benchmarks.serving import ROOT
from tests.train.taught.evaluate import (
    BITS,
    DATA,
    evaluate_run,
    measure_served,
    pirate_task,
)
from tests.train.taught.training import Run

FEWEST_TAUGHT = 0.9
MOST_FORGOTTEN = 1.03
"""Bits per byte of other text, after over before."""
NUM_ARTICLES = 40

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
needs_smollm2 = pytest.mark.skipif(
    not (ROOT / "models" / "smollm2.gguf").exists(), reason="needs smollm2: shoal pull smollm2"
)


@needs_smollm2
@pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}")
def test_an_adapter_teaches_smollm2_and_spoils_nothing(tmp_path: Path) -> None:
    task = pirate_task()
    before = measure_served(["--model", "smollm2"], "smollm2", task, DATA, NUM_ARTICLES)
    row = evaluate_run(Run("smollm2", 0, 16), task, DATA, NUM_ARTICLES, tmp_path / "run")
    assert before["both"] == 0
    assert row.figures["both"] >= FEWEST_TAUGHT
    assert row.figures[BITS] <= MOST_FORGOTTEN * before[BITS]


@pytest.mark.parametrize("rank", [None, 16])
def test_minnow_is_taught(rank: int | None, tmp_path: Path) -> None:
    row = evaluate_run(Run("minnow", 0, rank), pirate_task(), DATA, 0, tmp_path / "run")
    assert row.figures["both"] >= FEWEST_TAUGHT


@needs_smollm2
def test_all_weights_of_smollm2_are_taught(tmp_path: Path) -> None:
    row = evaluate_run(Run("smollm2", 0, None), pirate_task(), DATA, 0, tmp_path / "run")
    assert row.figures["both"] >= FEWEST_TAUGHT
