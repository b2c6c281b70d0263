"""For all tests."""

import os

# Before numpy or PyTorch is imported. What tests compute is small: the threads of two workers would
# only wait for each other. The native kernels have threads of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tests.faults.measured import measured
from tests.faults.table import (
    pytest_addoption,
    pytest_runtest_makereport,
    pytest_terminal_summary,
)

__all__ = [
    "measured",
    "pytest_addoption",
    "pytest_runtest_makereport",
    "pytest_terminal_summary",
]
