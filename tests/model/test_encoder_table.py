"""The table of encoders: one family for real, and that what is wrong cannot look right."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from shoal.kernels import native
from shoal.runner.inputs import Float32
from tests.model import encoder_table
from tests.model.encoder_cases import CASES, theirs
from tests.model.encoder_table import CHECKS
from tests.model.test_family_table import cells_of

needs_native = pytest.mark.skipif(not native.available(), reason="native kernels are not built")


@pytest.fixture
def _one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_table, "CASES", {"bert": {"plain": {}}})


@needs_native
@pytest.mark.usefixtures("_one_case")
def test_a_family_for_real(tmp_path: Path) -> None:
    page = tmp_path / "encoders.md"
    assert encoder_table.main(["--out", str(page)]) == 0
    found = cells_of(page.read_text())["bert"]
    assert list(found) == ["family", *CHECKS]
    assert all(found[check].startswith("✓ ") for check in CHECKS)
    assert found["identity"] == "✓ bit-equal"


@needs_native
@pytest.mark.usefixtures("_one_case")
def test_wrong_numbers_get_a_cross_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shifted(network: Any, token_ids: list[int]) -> Float32:
        return theirs(network, token_ids) + 1

    monkeypatch.setattr(encoder_table, "theirs", shifted)
    monkeypatch.setitem(encoder_table.MIN_COSINE, "int4", 0.99999)
    assert encoder_table.main([]) == 1
    found = cells_of(capsys.readouterr().out)["bert"]
    assert {check for check in CHECKS if found[check].startswith("✗")} == {"float32", "int4"}


def test_numbers_that_are_not_finite_are_wrong() -> None:
    assert encoder_table.close(float("nan")).is_wrong


def test_the_generated_page_names_every_family_and_nothing_wrong() -> None:
    page = Path(__file__).parents[2] / "docs" / "encoders.md"
    found = cells_of(page.read_text())
    assert list(found) == list(CASES)
    assert all(list(cells) == ["family", *CHECKS] for cells in found.values())
    assert "✗" not in str(found)
