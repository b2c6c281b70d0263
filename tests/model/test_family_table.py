"""The table of families: two of them for real, and that what is wrong cannot look right."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

from shoal.kernels import native
from shoal.runner.inputs import Float32
from tests.model import family_checks, family_table
from tests.model.cases import CASES
from tests.model.driving import reference_logits
from tests.model.family_checks import CHECKS, same_bits

FAMILIES = ["llama", "qwen2_moe"]


def cells_of(page: str) -> dict[str, dict[str, str]]:
    """Family -> check -> cell."""
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
def test_two_families_for_real(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "families.md"
    arguments = ["--out", str(page), "--families", ",".join(FAMILIES), "--cases", "1"]
    assert family_table.main(arguments) == 0
    found = cells_of(page.read_text())
    assert list(found) == FAMILIES
    for cells in found.values():
        assert list(cells) == ["family", *CHECKS]
        assert all(cells[check].startswith("✓ ") for check in CHECKS)
        assert cells["greedy"] == "✓ 64 of 64"
        assert cells["identity"] == cells["chunks, native"] == "✓ bit-equal"
    assert "refused" not in found["llama"]["LoRA"]
    assert "refused: experts, router" in found["qwen2_moe"]["LoRA"]


def test_wrong_numbers_get_a_cross_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shifted(network: Any, token_ids: list[int]) -> Float32:
        logits = reference_logits(network, token_ids)
        logits[:, 7] += 9.0
        return logits

    monkeypatch.setattr(family_checks, "reference_logits", shifted)
    wanted = ("float32", "greedy", "chunks, PyTorch", "LoRA")
    checks = {check: CHECKS[check] for check in wanted}
    for module in (family_checks, family_table):
        monkeypatch.setattr(module, "CHECKS", checks)
    assert family_table.main(["--families", "llama", "--cases", "1"]) == 1
    output = capsys.readouterr()
    marks = {check: cell[0] for check, cell in cells_of(output.out)["llama"].items()}
    assert [marks[check] for check in wanted] == ["✗", "✗", "✓", "✗"]
    assert output.err.count("wrong: llama, ") == 3


@pytest.mark.skipif(not native.available(), reason="native kernels are not built")
def test_rounding_beyond_the_limit_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(family_checks.MAX_DIVERGENCE, "int4", 1e-6)
    monkeypatch.setattr(family_table, "CHECKS", {"int4": CHECKS["int4"]})
    assert family_table.main(["--families", "llama", "--cases", "1"]) == 1
    assert cells_of(capsys.readouterr().out)["llama"]["int4"].startswith("✗ ")


def test_a_check_that_raises_is_a_wrong_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(case: family_checks.Case) -> family_checks.Outcome:
        raise ValueError("a | b\nc")

    monkeypatch.setattr(family_table, "CHECKS", {"float32": broken})
    assert family_table.main(["--families", "gpt2", "--cases", "2"]) == 1
    assert cells_of(capsys.readouterr().out)["gpt2"]["float32"] == "✗ ValueError: a / b c"


def test_one_bit_is_a_difference() -> None:
    ones = np.ones((2, 3), np.float32)
    other = ones.copy()
    assert same_bits([(ones, other)]).text == "bit-equal"
    other[1, 2] = np.nextafter(np.float32(1), np.float32(2))
    assert same_bits([(ones, ones), (ones, other)])[::2] == (True, "1 of 12 values differ")
    other[1, 2] = np.nan
    assert same_bits([(other, other)])[::2] == (True, "not finite")


def test_numbers_that_are_not_finite_are_wrong() -> None:
    even = np.zeros((1, 4), np.float32)
    broken = np.full((1, 4), np.nan, np.float32)
    assert family_checks.close(family_checks.max_difference(broken, even)).is_wrong


def test_the_generated_page_names_every_family_and_nothing_wrong() -> None:
    page = Path(__file__).parents[2] / "docs" / "families.md"
    found = cells_of(page.read_text())
    assert list(found) == list(CASES)
    assert all(list(cells) == ["family", *CHECKS] for cells in found.values())
    assert "✗" not in str(found)
