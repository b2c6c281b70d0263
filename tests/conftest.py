"""For all tests."""

import os

# Before numpy or PyTorch is imported. What tests compute is small: the threads of two workers would
# only wait for each other. The native kernels have threads of their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
