"""safetensors files: read bit by bit; damaged or hostile ones are clean errors.

Every case ends in the right numbers or a ModelFolderError, quickly and without large memory.
"""

import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.checkpoint.safetensors import read_safetensors
from shoal.errors import ModelFolderError
from tests.fakes.tiny_models import framed, save_safetensors


def small_file(path: Path) -> bytes:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "c": np.array([0x3F80, 0x4000], np.uint16),
    }
    save_safetensors(path, arrays)
    return path.read_bytes()


def test_all_formats_are_read_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    small_file(path)
    found = read_safetensors(path)
    assert found["a"].array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].array.tolist() == [0, 1, 2, 3]
    assert (found["c"].dtype, found["c"].array.tolist()) == ("BF16", [0x3F80, 0x4000])


def test_a_file_of_the_safetensors_library_is_read_the_same(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {"x.y": np.random.default_rng(0).standard_normal((3, 1, 5)).astype(np.float32),
              "z": np.float16([[7]])}  # fmt: skip
    library.save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_safetensors(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name].array, array)


def test_a_cut_at_any_place_is_a_clean_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    raw = small_file(path)
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(ModelFolderError, match=r"cut\.safetensors"):
            read_safetensors(path)
    path.write_bytes(raw + b"\0")
    with pytest.raises(ModelFolderError):
        read_safetensors(path)


def test_any_flipped_bit_of_the_header_gives_the_numbers_or_a_clean_error(tmp_path: Path) -> None:
    path = tmp_path / "flip.safetensors"
    raw = small_file(path)
    header_end = 8 + int.from_bytes(raw[:8], "little")
    num_refused = 0
    for bit in range(header_end * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = read_safetensors(path)
        except ModelFolderError:
            num_refused += 1
        else:  # a name or a format of the same width changed: still inside the file
            assert sum(tensor.array.nbytes for tensor in found.values()) == len(raw) - header_end
    assert num_refused > header_end * 8 // 2


HUGE = 1 << 40
BOMBS: dict[str, Any] = {
    "no object": [],
    "number": 7,
    "entry no object": {"a": 3},
    "no dtype": {"a": {"shape": [1], "data_offsets": [0, 4]}},
    "unknown dtype": {"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}},
    "pickled": {"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "negative": {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
    "two negatives": {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
    "huge": {"a": {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4]}},
    "wraps to 0": {"a": {"dtype": "F32", "shape": [1 << 33, 1 << 31], "data_offsets": [0, 0]}},
    "beyond 64 bits": {"a": {"dtype": "F32", "shape": [1 << 70], "data_offsets": [0, 4]}},
    "float size": {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
    "bool size": {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
    "nine dimensions": {"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}},
    "empty": {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    "backwards": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
    "outside": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}},
    "far outside": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 62, (1 << 62) + 4]}},
    "three offsets": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}},
    "gap": {"a": {"dtype": "F16", "shape": [1], "data_offsets": [2, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "overlap": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
                "c": {"dtype": "F16", "shape": [1], "data_offsets": [6, 8]}},
    "same place": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                   "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
    "left over": {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    "no tensor": {},
    "deep metadata": {"__metadata__": {"a": {"b": {}}}},
    "metadata no object": {"__metadata__": 3},
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hand_made_bomb_is_a_clean_error(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(framed(BOMBS[bomb], bytes(8)))
    with pytest.raises(ModelFolderError, match=r"bomb\.safetensors"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}\xff',
        b"\xff\xfe{}",
        b"not json",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": NaN}',
        b"[" + b"0," * 5_000_000 + b"0]",
        b"{" + b",".join(b'"%d":{}' % i for i in range(600_000)) + b"}",
    ],
    ids=lambda header: repr(header[:20]),
)
def test_a_header_that_is_no_plain_json_is_refused_fast_and_small(
    tmp_path: Path, header: bytes
) -> None:
    path = tmp_path / "header.safetensors"
    path.write_bytes(framed(header, bytes(4)))
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ModelFolderError, match="header") as caught:
            read_safetensors(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 2
    assert peak_bytes < 64 << 20
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 30, 17 << 20, 9])
def test_an_impossible_header_length_is_refused_before_it_is_read(
    tmp_path: Path, length: int
) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelFolderError, match="length"):
        read_safetensors(path)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int8", "int16", "int32", "int64", "float64"])
def test_buffers_that_are_no_weights_are_read_too(tmp_path: Path, kind: str) -> None:
    library = pytest.importorskip("safetensors.numpy")
    buffer = np.array([[1, 0, 1]]).astype(kind)
    path = tmp_path / "x.safetensors"
    library.save_file({"mask": buffer, "w": np.ones(2, np.float32)}, path)
    found = read_safetensors(path)
    assert found["mask"].array.tolist() == [[1, 0, 1]]
    assert found["w"].array.tolist() == [1, 1]


def test_an_empty_tensor_and_a_scalar_are_read(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "x.safetensors"
    library.save_file({"a": np.zeros((0, 3), np.float32), "b": np.float32([7]).reshape(())}, path)
    found = read_safetensors(path)
    assert (found["a"].array.shape, found["b"].array.shape) == ((0, 3), ())
    assert found["b"].array == 7


def test_arrays_are_views_of_the_file_and_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_safetensors(path, {"a": np.zeros(1 << 20, np.float32)})
    tracemalloc.start()
    array = read_safetensors(path)["a"].array
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20
    assert not array.flags.writeable


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4"])
def test_quantized_weights_have_a_sentence_of_their_own(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        framed({"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}}, bytes(4))
    )
    with pytest.raises(ModelFolderError, match=rf"tensor 'w' is stored as {dtype}.*bfloat16"):
        read_safetensors(path)


def test_a_git_lfs_pointer_is_no_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelFolderError, match=r"Git LFS pointer.*`git lfs pull`"):
        read_safetensors(path)
