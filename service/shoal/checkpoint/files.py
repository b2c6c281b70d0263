"""What a model on disk offers, whatever its format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray


class Block(NamedTuple):
    """Geometry of a quantized type of GGUF: so many numbers lie in so many bytes."""

    numbers: int
    num_bytes: int


BLOCKS: Mapping[str, Block] = {
    "Q4_0": Block(32, 18),
    "Q4_1": Block(32, 20),
    "Q5_0": Block(32, 22),
    "Q5_1": Block(32, 24),
    "Q8_0": Block(32, 34),
    "Q4_K": Block(256, 144),
    "Q5_K": Block(256, 176),
    "Q6_K": Block(256, 210),
}
"""Quantized types that a `StoredTensor` may have; `blocks.py` reads them."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as it lies in the file, a view without a copy."""

    dtype: str
    """F32, F16, BF16 (then `array` is uint16 that holds the bits), or a quantized type of `BLOCKS`
    (then `array` is uint8 [.., bytes of a row's blocks]). Others that a file may hold are buffers,
    not weights: F64, BOOL (bytes, as uint8), I8 to I64, U8 to U64."""
    array: NDArray[Any]
    file: str
    """Folder and file it lies in, for errors."""

    @property
    def shape(self) -> tuple[int, ...]:
        """In numbers, whatever they are stored as."""
        if (block := BLOCKS.get(self.dtype)) is None:
            return self.array.shape
        *rows, num_bytes = self.array.shape
        return (*rows, num_bytes // block.num_bytes * block.numbers)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the text side builds a tokenizer from."""

    definition: Callable[[], str | Mapping[str, Any]]
    """Reads tokenizer.json of the `tokenizers` library, as its text or as the object that the text
    stands for. Nobody keeps the result: it takes several times the memory of the tokenizer."""
    settings: Mapping[str, Any]
    """tokenizer_config.json (special_tokens_map.json filled in); empty where there is none."""
    where: str
    """Folder and file, for errors."""
    num_ids: int | None = None
    """The highest id + 1, added tokens included; None where only the definition says it."""


Pooling = Literal["mean", "first", "last"]
"""Of the vectors of a sequence's tokens: their mean, the first, the last."""


@dataclass(frozen=True, slots=True)
class EmbeddingFiles:
    """How the vectors of a sequence's tokens become one, as the files say."""

    pooling: Pooling
    normalized: bool
    """Is it divided by its length?"""
    where: str
    """Folder and file, for errors."""
    size: int | None = None
    """Numbers of a token's vector."""
    max_tokens: int | None = None
    """Of a sequence; None = as many as the network has positions."""
    remarks: tuple[str, ...] = ()
    """What of the files is left out and why, for the operator."""


class ModelFiles(Protocol):
    """One model's files. Reading is lazy; every method raises ModelFolderError that names the
    file, the key and what to do."""

    name: str
    """Of the folder or file, for errors."""
    path: Path

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, or a single file's metadata under the same keys."""
        ...

    @property
    def config_file(self) -> str:
        """Where the config came from, for errors: "folder/config.json"."""
        ...

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """generation_config.json; empty where there is none."""
        ...

    @property
    def generation_config_file(self) -> str:
        """Where that came from, for errors."""
        ...

    @property
    def tokenizer(self) -> TokenizerFiles: ...

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """Jinja sources by name; the usual one is "default"."""
        ...

    @property
    def quality(self) -> Mapping[str, Any] | None:
        """quality.json: what a smaller number format was measured to cost; None where absent."""
        ...

    @property
    def embedding(self) -> EmbeddingFiles | None:
        """How a vector is made of a sequence; None where the files say nothing of it."""
        ...

    @property
    def created(self) -> int:
        """Unix time of the model's config."""
        ...

    def tensors(self, on_progress: Callable[[float], None]) -> Mapping[str, StoredTensor]:
        """All tensors by their names in the file; the lock file has been compared. `on_progress`
        is told which part of that is done, up to 1."""
        ...

    @property
    def weights_hash(self) -> str:
        """First 16 hex digits of the SHA-256 over the weight file; of several files, over their
        SHA-256 digests in order of names."""
        ...

    @property
    def is_locked(self) -> bool:
        """Is there a lock, and does every file agree with it? Raises where one does not."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Size of the weights on disk."""
        ...
