"""What a measured program is said to cost."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks.process_cost import ProgramFailed, run_measured


def test_memory_time_and_output_of_a_program(tmp_path: Path) -> None:
    code = (
        "import time; held = bytearray(200 << 20); print('here', len(held) >> 20)\n"
        "end = time.process_time() + 0.2\n"
        "while time.process_time() < end: pass"
    )
    cost = run_measured([sys.executable, "-c", code], cwd=tmp_path)
    assert cost.output == "here 200\n"
    assert 200 < cost.peak_mib < 300
    assert cost.cpu_s >= 0.2
    assert cost.wall_s >= 0.2


def test_memory_of_children_counts(tmp_path: Path) -> None:
    child = "import time; held = bytearray(100 << 20); time.sleep(0.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert 100 < run_measured([sys.executable, "-c", code], cwd=tmp_path).peak_mib < 200


def test_a_failure_says_what_the_program_said(tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"status 3\nno data"):
        run_measured([sys.executable, "-c", "print('no data'); exit(3)"], cwd=tmp_path)


def test_the_environment_is_ours_and_what_is_given(tmp_path: Path) -> None:
    code = "import os; print(os.environ['PATH'] != '', os.environ['NUMBER'])"
    cost = run_measured([sys.executable, "-c", code], cwd=tmp_path, environment={"NUMBER": "5"})
    assert cost.output == "True 5\n"
