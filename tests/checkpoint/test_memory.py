"""What stays of a model once it is loaded: no text of its tokenizer, no mapping, no freed heap."""

import ctypes
import gc
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from shoal.checkpoint.files import TokenizerFiles
from shoal.checkpoint.open import open_model
from shoal.checkpoint.tokenizer import num_token_ids
from shoal.checkpoint.tokenizer_library import build_library
from shoal.kernels import native
from shoal.protocol.messages import EngineConfig, ModelSource
from shoal.runner.load import load_runner
from shoal.text.text_model import load_text_model
from tests.checkpoint.test_gguf import SHAPES, SIZES
from tests.checkpoint.test_gguf_tokenizers import small_sentencepiece
from tests.fakes.gguf_files import (
    CONTROL,
    NORMAL,
    USER,
    GgufContent,
    byte_vocabulary,
    vocabulary,
    write_gguf,
)
from tests.fakes.tiny_models import write_tiny_llama

needs_native = pytest.mark.skipif(not native.available(), reason="native kernels are not built")
needs_maps = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
needs_glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="needs glibc"
)
NUM_WORDS = 20_000


def big_vocabulary() -> dict[str, Any]:
    """Bytes, and words of four letters made by two merges each."""
    base = byte_vocabulary()
    tokens = list(base["tokenizer.ggml.tokens"])
    types = list(base["tokenizer.ggml.token_type"])
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [a + b for a in letters for b in letters if a + b not in tokens]
    words = [a + b for a in pairs for b in pairs if a + b not in tokens][:NUM_WORDS]
    merges = [f"{pair[0]} {pair[1]}" for pair in pairs]
    merges += [f"{word[:2]} {word[2:]}" for word in words]
    return base | {
        "tokenizer.ggml.tokens": [*tokens, *pairs, *words],
        "tokenizer.ggml.token_type": [*types, *[NORMAL] * (len(pairs) + len(words))],
        "tokenizer.ggml.merges": merges,
    }


def write_big(folder: Path) -> Path:
    metadata = SIZES | big_vocabulary()
    rows = len(metadata["tokenizer.ggml.tokens"])
    rng = np.random.default_rng(0)
    shapes = SHAPES | {"token_embd": (rows, 64)}
    tensors = {f"{name}.weight": rng.standard_normal(size) for name, size in shapes.items()}
    return write_gguf(folder / "big.gguf", GgufContent("llama", metadata, dict(tensors)))


def text_of(files: TokenizerFiles) -> str:
    definition = files.definition()
    return definition if isinstance(definition, str) else json.dumps(definition)


def wordpieces() -> dict[str, Any]:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581a", "b", "<x>"]
    types = [CONTROL, CONTROL, CONTROL, CONTROL, NORMAL, NORMAL, USER]
    ids = {"unknown_token_id": 1, "cls_token_id": 2, "seperator_token_id": 3}
    return vocabulary("bert", tokens, types, **ids)


@pytest.mark.parametrize(
    "metadata", [byte_vocabulary(), small_sentencepiece(), wordpieces()], ids=["bytes", "sp", "wp"]
)
def test_an_object_becomes_the_tokenizer_that_its_text_is(
    tmp_path: Path, metadata: dict[str, Any]
) -> None:
    content = GgufContent("llama", metadata, {"token_embd.weight": np.ones((1, 32))})
    files = open_model(write_gguf(tmp_path / "tiny.gguf", content)).tokenizer
    expected = Library.from_str(text_of(files))
    assert build_library(files.definition()).to_str() == expected.to_str()
    highest = max(expected.get_vocab(with_added_tokens=True).values())
    assert num_token_ids(files) == highest + 1


def test_of_a_vocabulary_nothing_stays_in_python(tmp_path: Path) -> None:
    source = ModelSource("big", str(write_big(tmp_path)))
    size = len(text_of(open_model(tmp_path / "big.gguf").tokenizer))
    assert size > 500_000
    load_text_model(source)  # imports and caches
    gc.collect()
    tracemalloc.start()
    try:
        model = load_text_model(source)
        gc.collect()
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < size / 10
    assert peak > size  # it was there, and is counted
    assert model.tokenizer.vocab_size > NUM_WORDS


@needs_maps
def test_the_text_side_does_not_keep_the_file_mapped(tmp_path: Path) -> None:
    model = load_text_model(ModelSource("big", str(write_big(tmp_path))))
    assert model.tokenizer.encode("abcd")
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@needs_native
@needs_maps
@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_packed_weights_do_not_keep_the_file_mapped(tmp_path: Path, kind: str) -> None:
    path = write_big(tmp_path) if kind == "gguf" else write_tiny_llama(tmp_path / "tiny")
    config = EngineConfig(models=(), kernels="native", num_threads=1)
    loaded = load_runner(ModelSource("tiny", str(path)), config, 4 << 20, lambda _: None)
    assert loaded.loaded.weight_bytes > 0
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@needs_maps
@needs_glibc
def test_freed_memory_below_kept_memory_goes_back() -> None:
    script = """
import ctypes, threading
from pathlib import Path
from shoal.checkpoint.memory import release_freed_memory, use_one_arena

def resident_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

def work():
    library = ctypes.CDLL(None)
    library.malloc.restype = library.memset.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    library.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    pieces = [library.malloc(20_000) for _ in range(3000)]
    for piece in pieces:
        library.memset(piece, 1, 20_000)
    for piece in pieces[:-1]:  # the last one keeps the heap from shrinking
        library.free(piece)
    before = resident_kib()
    release_freed_memory()
    print(before - resident_kib())

use_one_arena()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    command = [sys.executable, "-c", script]
    freed_kib = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(freed_kib) > 40_000
