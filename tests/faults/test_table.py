"""The table tells what was measured, and a failed test as "no"."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CASES = """
    import pytest

    pytestmark = pytest.mark.faults

    def test_that_measures(measured):
        measured("a reader stops", promised="30 s", measured="31 s")
        measured("a pipe | is full", promised="0 lost", measured="0")

    def test_that_says_nothing_of_its_own():
        pass

    def test_that_fails(measured):
        measured("an engine is killed", promised="1 s", measured="9 s")
        assert 9 <= 1

    @pytest.fixture
    def broken():
        yield
        raise RuntimeError

    def test_whose_end_fails(broken):
        pass

    def test_that_cannot_run_here():
        pytest.skip("no network namespace")
"""


def test_rows_and_failures_are_told(pytester: pytest.Pytester) -> None:
    """Also where a worker of xdist ran the tests."""
    pytester.makeini("[pytest]\nmarkers = faults\n  checklist")
    pytester.makeconftest(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.faults.measured import measured
        from tests.faults.table import *
        """
    )
    pytester.makepyfile(test_it=CASES)
    result = pytester.runpytest_subprocess("-m", "faults", "--faults-table", "table.md", "-n", "1")
    table = (pytester.path / "table.md").read_text().splitlines()
    assert table[:2] == ["| situation | promised | measured | pass |", "| --- | --- | --- | --- |"]
    assert set(table[2:8]) == {
        "| a reader stops | 30 s | 31 s | yes |",
        "| a pipe \\| is full | 0 lost | 0 | yes |",
        "| that says nothing of its own |  |  | yes |",
        "| an engine is killed | 1 s | 9 s | no |",
        "| whose end fails |  |  | no |",
        "| that cannot run here |  |  | skipped |",
    }
    assert table[-1] == "3 yes, 2 no, 1 skipped"
    result.stdout.fnmatch_lines(["*the fault list*", "situation * promised * measured * pass"])
