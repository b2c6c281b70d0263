"""Weight files: what is read exactly, and that damaged or hostile ones are clean errors.

Every case ends in the right numbers or a ModelFolderError, quickly and without large memory.
"""

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import ModelFolderError
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.model.safetensors_file import read_safetensors
from tests.fakes.tiny_models import (
    TINY_GPT2,
    TINY_LLAMA,
    framed,
    random_weights,
    save_safetensors,
    write_lock,
    write_tiny_gpt2,
    write_tiny_llama,
)


def load(folder: Path) -> Checkpoint:
    return load_checkpoint(folder, lambda progress: None)


def small_file(path: Path) -> bytes:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(4, dtype=np.float16),
        "c": np.array([0x3F80, 0x4000], np.uint16),
    }
    save_safetensors(path, arrays)
    return path.read_bytes()


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


# --- files -------------------------------------------------------------------------------------


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
    "unknown dtype": {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}},
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


# --- folders -----------------------------------------------------------------------------------


def rewrite(folder: Path, change: Any, config: dict[str, Any] = TINY_LLAMA) -> Path:
    """Saves the folder's weights again after `change` did something to them."""
    arrays = random_weights(config)
    change(arrays)
    save_safetensors(folder / "model.safetensors", arrays)
    return folder


def test_missing_extra_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ModelFolderError, match=f"missing: {name}$"):
        load(rewrite(folder, lambda arrays: arrays.pop(name)))
    with pytest.raises(ModelFolderError, match=r"unknown: odd\.one$"):
        load(rewrite(folder, lambda arrays: arrays.update({"odd.one": np.ones(1, np.float32)})))
    with pytest.raises(ModelFolderError, match=rf"{name} \[48, 72\] instead of \[72, 48\]"):
        load(rewrite(folder, lambda arrays: arrays.update({name: arrays[name].T.copy()})))


def test_of_many_missing_tensors_ten_are_named_and_the_others_counted(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", num_hidden_layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ModelFolderError, match="and 17 more") as caught:
        load(folder)
    assert caught.value.message.count("model.layers") == 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_nan_and_infinity_in_any_format_are_refused_by_name(
    tmp_path: Path, stored: str, bad: float
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", torch_dtype=stored)
    path = folder / "model.safetensors"
    header, data = parts(path.read_bytes())
    entry = header["model.norm.weight"]
    bits = {
        "float32": np.float32(bad).tobytes(),
        "float16": np.float16(bad).tobytes(),
        "bfloat16": np.float32(bad).tobytes()[2:],
    }[stored]
    place = entry["data_offsets"][1] - len(bits)
    path.write_bytes(framed(header, data[:place] + bits + data[place + len(bits) :]))
    with pytest.raises(ModelFolderError, match=r"NaN or infinity: model\.norm\.weight$"):
        load(folder)


def test_a_tied_head_may_be_stored_too_but_must_be_the_embedding(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", tie_word_embeddings=True)
    config = TINY_LLAMA | {"tie_word_embeddings": True}

    def copy(arrays: Any) -> None:
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].copy()

    def differ(arrays: Any) -> None:
        copy(arrays)
        arrays["lm_head.weight"][0, 0] += 1

    assert "lm_head.weight" not in load(rewrite(folder, copy, config)).tensors
    with pytest.raises(ModelFolderError, match=r"lm_head\.weight differs"):
        load(rewrite(folder, differ, config))


def test_old_gpt2_names_and_mask_buffers_are_understood(tmp_path: Path) -> None:
    folder = write_tiny_gpt2(tmp_path / "tiny")
    wanted = load(folder)
    old = {name.removeprefix("transformer."): array for name, array in
           random_weights(TINY_GPT2).items()}  # fmt: skip
    old["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
    save_safetensors(folder / "model.safetensors", old)
    found = load(folder)
    assert found.tensors.keys() == wanted.tensors.keys()
    assert found.num_parameters == wanted.num_parameters


def shard(folder: Path, *, twice: bool = False) -> Path:
    """Cuts the folder's weights into two files with an index."""
    arrays = random_weights(TINY_LLAMA)
    names = sorted(arrays)
    half = len(names) // 2
    files = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half - twice :],
    }
    for file, own in files.items():
        save_safetensors(folder / file, {name: arrays[name] for name in own})
    weight_map = {name: file for file, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()
    return folder


def test_shards_are_read_as_one_model(tmp_path: Path) -> None:
    whole = load(write_tiny_llama(tmp_path / "whole"))
    cut = load(shard(write_tiny_llama(tmp_path / "cut")))
    assert cut.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        np.testing.assert_array_equal(cut.tensors[name].array, tensor.array)
    assert cut.weights_hash != whole.weights_hash
    assert len(cut.weights_hash) == 16


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="in two files"):
        load(shard(write_tiny_llama(tmp_path / "tiny"), twice=True))


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "gone.safetensors"}}',
    ],
)
def test_a_bad_index_is_a_clean_error_and_never_leaves_the_folder(
    tmp_path: Path, index: str
) -> None:
    folder = shard(write_tiny_llama(tmp_path / "tiny"))
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFolderError):
        load(folder)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"no model\.safetensors"):
        load(folder)


# --- lock --------------------------------------------------------------------------------------


def test_a_locked_folder_loads_and_gives_the_same_hash_as_without_a_lock(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    unlocked = load(folder).weights_hash
    write_lock(folder)
    assert load(folder).weights_hash == unlocked


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json",
                                  "tokenizer_config.json", "generation_config.json"])  # fmt: skip
def test_one_changed_byte_in_any_locked_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    raw = bytearray((folder / name).read_bytes())
    # A space for a space's neighbour: the file still reads well, only the lock can tell.
    place = len(raw) - 1 if name.endswith("safetensors") else raw.index(b" ")
    raw[place] = raw[place] ^ 1 if name.endswith("safetensors") else ord("\n")
    (folder / name).write_bytes(raw)
    with pytest.raises(ModelFolderError, match=f"{name} differs from lock"):
        load(folder)


def test_a_file_in_use_that_is_not_locked_or_a_locked_one_that_is_gone_is_refused(
    tmp_path: Path,
) -> None:
    folder = write_tiny_llama(tmp_path / "tiny", lock=True)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelFolderError, match=r"chat_template\.jinja is not in lock"):
        load(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "notes.txt").write_text("the model does not use this")
    load(folder)
    (folder / "generation_config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"generation_config\.json is in lock\.json but"):
        load(folder)


@pytest.mark.parametrize(
    "lock",
    [
        "",
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"config.json": 3}}',
        '{"files": {"config.json": {"sha256": "x"}}}',
        '{"files": {"../x": {"sha256": "", "bytes": 1}}}',
    ],
)
def test_a_broken_lock_refuses_to_start(tmp_path: Path, lock: str) -> None:
    folder = write_tiny_llama(tmp_path / "tiny")
    (folder / "lock.json").write_text(lock)
    with pytest.raises(ModelFolderError, match="lock"):
        load(folder)
