"""Tests of the native library are skipped where it is missing; this one says it must not be."""

import shutil

import pytest

from shoal.kernels import native


def test_the_library_is_built_where_there_is_a_compiler() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler here")
    assert native.available(), "the build failed: see .venv/native-build.log"
