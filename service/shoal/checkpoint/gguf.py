"""A model in one GGUF file: config, weights, tokenizer and chat template together. What its
metadata cannot say, sampling defaults and measured quality, may lie beside it (`sidecars.py`).

The file is read when first asked for something. Checks of its bytes are in `gguf_header.py`; what
its metadata means in `gguf_config.py` (the network) and `gguf_tokenizer.py` (the text side).
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from shoal.checkpoint.files import EmbeddingFiles, StoredTensor, TokenizerFiles
from shoal.checkpoint.gguf_architectures import GGUF_ARCHITECTURES
from shoal.checkpoint.gguf_bert import read_embedding
from shoal.checkpoint.gguf_config import GgufArchitecture, read_head_dim
from shoal.checkpoint.gguf_header import GgufHeader, read_header
from shoal.checkpoint.gguf_keys import GgufKeys
from shoal.checkpoint.gguf_tensors import Heads, renamed
from shoal.checkpoint.gguf_tokenizer import GgufTokenizer
from shoal.checkpoint.lock import LOCK_FILE, file_sha256, verify_lock
from shoal.checkpoint.read import read_json, where
from shoal.checkpoint.sidecars import GENERATION_CONFIG, QUALITY, SIDECARS, sidecar
from shoal.errors import ModelFolderError

_OTHER_KINDS = {
    "adapter": "a LoRA adapter, not a whole model: use the adapter's PEFT folder",
    "mmproj": "the image or sound part of a model: give the file of its language model",
    "imatrix": "an importance matrix, not a model: give the model's own file",
    "vocab": "a vocabulary without weights: give the model's own file",
}
"""`general.type` of what is no model."""


class GgufFile:
    """`ModelFiles` of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Synthesized from the metadata. Keys of the architecture that nobody reads stand in it
        under their own names, so that they are reported as those of a config.json are."""
        config = self._architecture.config(self._keys)
        _ = self.embedding  # its key is read
        return config | self._keys.unused()

    @property
    def config_file(self) -> str:
        return where(self.path)

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        """The ids that begin and end a text; a sidecar adds to them or replaces them."""
        return {**self._tokenizer.generation_config, **(self._sidecar(GENERATION_CONFIG) or {})}

    @property
    def generation_config_file(self) -> str:
        beside = sidecar(self.path, GENERATION_CONFIG)
        return where(beside if beside.is_file() else self.path)

    @property
    def tokenizer(self) -> TokenizerFiles:
        return self._tokenizer.files

    @property
    def chat_templates(self) -> Mapping[str, str]:
        return self._tokenizer.chat_templates

    @property
    def quality(self) -> Mapping[str, Any] | None:
        return self._sidecar(QUALITY)

    @cached_property
    def embedding(self) -> EmbeddingFiles | None:
        return read_embedding(self._keys, self.config_file)

    @property
    def created(self) -> int:
        return int(self._stat().st_mtime)

    def tensors(self, on_progress: Callable[[float], None]) -> Mapping[str, StoredTensor]:
        """By Hugging Face's names, in its layout; quantized blocks as they are."""
        _ = self._locked  # compared before anything is believed
        on_progress(0.5)
        keys = self._keys
        num_heads = keys.size("attention.head_count")
        kv_heads = keys.sizes("attention.head_count_kv", keys.size("block_count"), num_heads)
        heads = Heads(num_heads, max(kv_heads), read_head_dim(keys))
        tensors = renamed(self._header.tensors, self._architecture.names_of(keys), heads)
        on_progress(1.0)
        return tensors

    @cached_property
    def weights_hash(self) -> str:
        locked = self._locked or {}
        return (locked.get(self.path.name) or file_sha256(self.path))[:16]

    @property
    def is_locked(self) -> bool:
        return self._locked is not None

    @property
    def weight_bytes(self) -> int:
        return int(self._stat().st_size)

    # --- parts ----------------------------------------------------------------------------------

    @cached_property
    def _header(self) -> GgufHeader:
        header = read_header(self.path)
        kind = str(header.metadata.get("general.type", "model"))
        if kind in _OTHER_KINDS:
            raise ModelFolderError(f"{header.file} is {_OTHER_KINDS[kind]}")
        if str(header.metadata.get("split.count", 0)) not in ("0", "1"):
            raise ModelFolderError(
                f"{header.file} is one part of several: join them with llama.cpp's "
                "`llama-gguf-split --merge FIRST_PART NEW_FILE` and give the new file"
            )
        return header

    @cached_property
    def _architecture(self) -> GgufArchitecture:
        name = self._header.metadata.get("general.architecture")
        if not isinstance(name, str) or name not in GGUF_ARCHITECTURES:
            raise ModelFolderError(
                f"{self._header.file}: general.architecture is {str(name)[:40]!r}, which Shoal "
                f"cannot read; it reads {', '.join(GGUF_ARCHITECTURES)}"
            )
        return GGUF_ARCHITECTURES[name]

    @cached_property
    def _keys(self) -> GgufKeys:
        _ = self._architecture  # refuses an unknown one first
        return GgufKeys(self._header, str(self._header.metadata["general.architecture"]))

    @cached_property
    def _tokenizer(self) -> GgufTokenizer:
        return GgufTokenizer(self._header)

    @cached_property
    def _locked(self) -> dict[str, str] | None:
        """A lock of the folder that names this file."""
        folder = self.path.parent
        if not (folder / LOCK_FILE).is_file():
            return None
        named = read_json(folder / LOCK_FILE).get("files")
        if not isinstance(named, dict) or self.path.name not in named:
            return None
        beside = [path for name in SIDECARS if (path := sidecar(self.path, name)).is_file()]
        return verify_lock(folder, [self.path, *beside])

    def _sidecar(self, name: str) -> Mapping[str, Any] | None:
        path = sidecar(self.path, name)
        return read_json(path) if path.is_file() else None

    def _stat(self) -> Any:
        try:
            return self.path.stat()
        except OSError as error:
            raise ModelFolderError(f"{where(self.path)} cannot be read") from error
