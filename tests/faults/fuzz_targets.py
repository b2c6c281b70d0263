"""Readers of model files, which anybody may have made: functions of bytes, and examples to begin
with. Each returns, or raises an error of ours; anything else is a fault."""

import json
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from shoal.checkpoint.files import TokenizerFiles
from shoal.checkpoint.gguf_header import read_header
from shoal.checkpoint.read import parse_json
from shoal.checkpoint.safetensors import read_safetensors
from shoal.checkpoint.tokenizer import num_token_ids
from shoal.checkpoint.tokenizer_library import open_library
from shoal.text.chat_template import ChatTemplate
from tests.fakes import tool_templates
from tests.fakes.text_folder import byte_tokenizer
from tests.fakes.tiny_models import framed, save_safetensors


def model_json(data: bytes) -> None:
    """A config, settings or an index of a model folder."""
    parse_json(data.decode("utf-8", "replace"), "x/config.json")


def tokenizer_json(data: bytes) -> None:
    """The library and our own reader."""
    text = data.decode("utf-8", "replace")
    files = TokenizerFiles(lambda: text, {}, "x/tokenizer.json")
    try:
        num_token_ids(files)
    finally:
        open_library(files)


def chat_template(data: bytes) -> None:
    """What `template_bounds.py` lets into this process, and the sandbox."""
    template = ChatTemplate(data.decode("utf-8", "replace"))
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "<a>" * 9}]
    template.render({"messages": messages, "tools": [{"x": [1, "y"]}]}, max_chars=10_000)


def safetensors_header(data: bytes) -> None:
    """A whole file; its tensors are looked at as well."""
    for tensor in read_safetensors(_file(data, "x.safetensors")).values():
        tensor.array.tobytes()


def gguf_header(data: bytes) -> None:
    for tensor in read_header(_file(data, "x.gguf")).tensors.values():
        tensor.array.tobytes()


def _tokenizers() -> list[bytes]:
    tokenizer = json.loads(byte_tokenizer().to_str())
    tokenizer["model"]["vocab"] = dict(list(tokenizer["model"]["vocab"].items())[:40])
    tokenizer["model"]["merges"] = []
    return [json.dumps(tokenizer).encode()]


def _configs() -> list[bytes]:
    return [
        b'{"a": [1, 2.5, null, true, {"b": "c"}], "d": -1e-5, "e": {"f": []}}',
        b'{"weight_map": {"x.weight": "model-00001.safetensors"}, "metadata": {"total_size": 9}}',
    ]


def _templates() -> list[bytes]:
    texts = [text for text in vars(tool_templates).values() if isinstance(text, str)]
    return [text.encode() for text in texts if "{%" in text]


def _safetensors() -> list[bytes]:
    path = Path(tempfile.mkdtemp()) / "x.safetensors"
    save_safetensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)})
    entry = {"dtype": "I64", "shape": [0, 3], "data_offsets": [0, 0]}
    return [path.read_bytes(), framed({"__metadata__": {"format": "pt"}, "a": entry}, b"")]


def _gguf() -> list[bytes]:
    """A header by hand: texts, numbers, a list, a tensor."""

    def number(value: int, size: int = 8) -> bytes:
        return value.to_bytes(size, "little")

    def text(value: str) -> bytes:
        return number(len(value)) + value.encode()

    entries = [
        text("general.architecture") + number(8, 4) + text("llama"),
        text("llama.block_count") + number(4, 4) + number(2, 4),
        text("llama.epsilon") + number(6, 4) + np.float32(1e-5).tobytes(),
        text("tokenizer.tokens") + number(9, 4) + number(8, 4) + number(2) + text("a") + text("b"),
        text("tokenizer.scores") + number(9, 4) + number(6, 4) + number(2) + bytes(8),
    ]
    tensor = text("a") + number(2, 4) + number(32) + number(2) + number(2, 4) + number(0)
    head = b"GGUF" + number(3, 4) + number(1) + number(len(entries)) + b"".join(entries) + tensor
    return [head + bytes(-len(head) % 32) + bytes(36)]


SEEDS: dict[Callable[[bytes], object], list[bytes]] = {
    model_json: _configs(),
    tokenizer_json: _tokenizers(),
    chat_template: _templates(),
    safetensors_header: _safetensors(),
    gguf_header: _gguf(),
}


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp())


def _file(data: bytes, name: str) -> Path:
    path = _folder() / name
    path.unlink(missing_ok=True)  # what is mapped of the one before stays as it was
    path.write_bytes(data)
    return path
