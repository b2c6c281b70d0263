"""Pages of a mapped file leave the process's memory, and their content stays."""

import sys
from pathlib import Path

import numpy as np
import pytest

from shoal.checkpoint.mapped import drop_pages
from shoal.checkpoint.safetensors import read_safetensors
from tests.fakes.tiny_models import save_safetensors

NUMBERS = 1 << 22
ROWS = 1 << 10


def _resident_file_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1])
    pytest.skip("this kernel does not tell what is resident of files")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_dropped_pages_are_not_resident_and_read_the_same(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).standard_normal((ROWS, NUMBERS // ROWS), np.float32)
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"a": numbers, "b": numbers[:1]})
    array = read_safetensors(path)["a"].array
    before = _resident_file_kib()
    expected = array.sum(dtype=np.float64)
    after_reading = _resident_file_kib()
    drop_pages(array)
    after_dropping = _resident_file_kib()
    whole_kib = array.nbytes // 1024
    assert after_reading - before > 0.8 * whole_kib
    assert after_reading - after_dropping > 0.8 * whole_kib
    assert array.sum(dtype=np.float64) == expected
    np.testing.assert_array_equal(array, numbers)


@pytest.mark.parametrize("part", [slice(3, 700), slice(None, None, -1), slice(5, 6)])
def test_parts_and_transposed_views_are_dropped_too(tmp_path: Path, part: slice) -> None:
    numbers = np.arange(ROWS * 64, dtype=np.float32).reshape(ROWS, 64)
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"a": numbers})
    array = read_safetensors(path)["a"].array
    drop_pages(array[part])
    drop_pages(array[part].T)
    np.testing.assert_array_equal(array, numbers)


def test_arrays_with_memory_of_their_own_keep_it() -> None:
    numbers = np.arange(NUMBERS)
    drop_pages(numbers[1:])
    np.testing.assert_array_equal(numbers, np.arange(NUMBERS))


def test_empty_arrays(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_safetensors(path, {"a": np.ones(1, np.float32), "b": np.ones((0, 4), np.float32)})
    drop_pages(read_safetensors(path)["b"].array)
