"""Files that are written tensor by tensor are read back, by our reader and by the library."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from shoal.checkpoint.safetensors import read_safetensors
from shoal.checkpoint.safetensors_write import Layout, write_safetensors

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "empty": np.zeros((0, 4), np.float32),
    "half": np.arange(5, dtype=np.float16),
    "bits": np.arange(7, dtype=np.uint16),
    "größe": np.ones((), np.float32),
}
DTYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
LAYOUTS = {name: Layout(DTYPES[str(a.dtype)], a.shape) for name, a in ARRAYS.items()}


@pytest.mark.parametrize("backwards", [False, True])
def test_tensors_are_read_back_in_whatever_order_they_come(tmp_path: Path, backwards: bool) -> None:
    pairs = list(ARRAYS.items())
    write_safetensors(tmp_path, "model", LAYOUTS, reversed(pairs) if backwards else pairs)
    found = read_safetensors(tmp_path / "model.safetensors")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == LAYOUTS[name].dtype
        assert found[name].array.shape == array.shape
        assert found[name].array.tobytes() == array.tobytes()
    raw = (tmp_path / "model.safetensors").read_bytes()
    assert int.from_bytes(raw[:8], "little") % 8 == 0
    assert b'"__metadata__":{"format":"pt"}' in raw


def test_the_library_reads_it_too(tmp_path: Path) -> None:
    layouts = {name: layout for name, layout in LAYOUTS.items() if layout.dtype != "BF16"}
    write_safetensors(tmp_path, "m", layouts, ((name, ARRAYS[name]) for name in layouts))
    for name, array in load_file(tmp_path / "m.safetensors").items():
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_above_the_limit_there_are_several_files_and_an_index(tmp_path: Path) -> None:
    write_safetensors(tmp_path, "model", LAYOUTS, ARRAYS.items(), max_file_bytes=60)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "matrix": "model-00001-of-00002.safetensors",
        "transposed": "model-00002-of-00002.safetensors",
        "empty": "model-00002-of-00002.safetensors",
        "half": "model-00002-of-00002.safetensors",
        "bits": "model-00002-of-00002.safetensors",
        "größe": "model-00002-of-00002.safetensors",
    }
    assert index["metadata"] == {"total_size": 48 + 24 + 10 + 14 + 4}
    for name, file in index["weight_map"].items():
        found = read_safetensors(tmp_path / file)[name]
        assert found.array.tobytes() == ARRAYS[name].tobytes()
    assert not (tmp_path / "model.safetensors").exists()


def test_tensors_that_are_missing_twice_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    pairs = list(ARRAYS.items())
    with pytest.raises(ValueError, match="tensors are missing: größe"):
        write_safetensors(tmp_path, "m", LAYOUTS, pairs[:-1])
    with pytest.raises(ValueError, match=r"matrix .* not twice"):
        write_safetensors(tmp_path, "m", LAYOUTS, [*pairs, pairs[0]])
    with pytest.raises(ValueError, match=r"matrix \(4, 3\)"):
        write_safetensors(tmp_path, "m", LAYOUTS, [("matrix", ARRAYS["matrix"].T), *pairs[1:]])
