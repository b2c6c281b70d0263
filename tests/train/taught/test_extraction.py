"""The rows that teach extraction, and the requests that measure it."""

import json
from pathlib import Path

import pytest

from models.recipes.pilotfish import evaluate
from tests.train.taught import extraction

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT.parent / "shared" / "data" / "corpora"

pytestmark = pytest.mark.skipif(
    not (DATA / evaluate.SNIPS_FILE).exists(), reason=f"needs {evaluate.SNIPS_FILE}"
)


def test_rows_are_chats_and_none_is_held_out(tmp_path: Path) -> None:
    extraction.write_rows(tmp_path / "rows.jsonl", DATA, 300, seed=0)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    assert len(rows) == 300
    assert all([m["role"] for m in row] == ["system", "user", "assistant"] for row in rows)
    assert all(evaluate.parse_answer(row[-1]["content"]) for row in rows)
    held_out = [case.messages[-1]["content"] for case in extraction.held_out_cases(DATA)]
    assert len(held_out) == 350
    assert not {row[1]["content"] for row in rows} & {*held_out}


@pytest.mark.slow
def test_the_held_out_requests_are_those_of_pilotfishs_card() -> None:
    theirs = evaluate.held_out_cases(ROOT / "models" / "recipes" / "pilotfish", DATA)["snips"]
    assert extraction.held_out_cases(DATA) == theirs
