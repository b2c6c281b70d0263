"""A model folder as Hugging Face's libraries write it: JSON files, safetensors, a tokenizer.json.

Every file is read when first asked for. What makes a path no such folder is said in `open.py`.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from shoal.checkpoint.files import EmbeddingFiles, StoredTensor, TokenizerFiles
from shoal.checkpoint.lock import LOCK_FILE, file_sha256, verify_lock
from shoal.checkpoint.read import read_json, read_text, where
from shoal.checkpoint.safetensors import read_safetensors
from shoal.checkpoint.sentence import read_sentence_files, sentence_files
from shoal.checkpoint.sidecars import GENERATION_CONFIG, QUALITY
from shoal.errors import ModelFolderError

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
MORE_CHAT_TEMPLATES = "additional_chat_templates"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

_OTHER_TOKENIZERS = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json",
                     "vocab.txt")  # fmt: skip
_OTHER_WEIGHTS = ("pytorch_model*.bin", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


class HuggingFaceFolder:
    """`ModelFiles` of a folder. Nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name

    @cached_property
    def config(self) -> Mapping[str, Any]:
        config = read_json(self.path / CONFIG)
        _refuse_quantized(self.config_file, config)
        return config

    @property
    def config_file(self) -> str:
        return where(self.path / CONFIG)

    @cached_property
    def generation_config(self) -> Mapping[str, Any]:
        return self._optional_json(GENERATION_CONFIG)

    @property
    def generation_config_file(self) -> str:
        return where(self.path / GENERATION_CONFIG)

    @cached_property
    def tokenizer(self) -> TokenizerFiles:
        path = self.path / TOKENIZER
        if not path.is_file():
            raise ModelFolderError(self._no_tokenizer())
        return TokenizerFiles(lambda: read_text(path), self._tokenizer_settings, where(path))

    @property
    def chat_templates(self) -> Mapping[str, str]:
        """A file wins over tokenizer_config.json, as in transformers."""
        templates = _configured_templates(self.path, self._tokenizer_settings.get("chat_template"))
        own_file = self.path / CHAT_TEMPLATE
        if own_file.is_file():
            templates["default"] = read_text(own_file)
        return templates | {path.stem: read_text(path) for path in self._more_templates()}

    @property
    def quality(self) -> Mapping[str, Any] | None:
        path = self.path / QUALITY
        return read_json(path) if path.is_file() else None

    @cached_property
    def embedding(self) -> EmbeddingFiles | None:
        return read_sentence_files(self.path)

    @property
    def created(self) -> int:
        try:
            return int((self.path / CONFIG).stat().st_mtime)
        except OSError as error:
            raise ModelFolderError(f"{self.config_file} cannot be read") from error

    def tensors(self, on_progress: Callable[[float], None]) -> Mapping[str, StoredTensor]:
        files = self._weight_files
        _ = self._locked  # compared before anything is believed
        tensors: dict[str, StoredTensor] = {}
        for index, path in enumerate(files):
            on_progress((index + 1) / (len(files) + 1))
            of_file = read_safetensors(path)
            if twice := sorted(of_file.keys() & tensors.keys()):
                raise ModelFolderError(f"{self.name}: tensors stand in two files: {twice[0]}")
            tensors.update(of_file)
        self._compare_index(tensors)
        on_progress(1.0)
        return tensors

    @cached_property
    def weights_hash(self) -> str:
        locked = self._locked or {}
        hashes = [locked.get(path.name) or file_sha256(path) for path in self._weight_files]
        if len(hashes) > 1:
            hashes = [hashlib.sha256(b"".join(map(bytes.fromhex, hashes))).hexdigest()]
        return hashes[0][:16]

    @property
    def is_locked(self) -> bool:
        return self._locked is not None

    @property
    def weight_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._weight_files)

    # --- files ---------------------------------------------------------------------------------

    @cached_property
    def _locked(self) -> dict[str, str] | None:
        if not (self.path / LOCK_FILE).is_file():
            return None
        names = (CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP,
                 CHAT_TEMPLATE)  # fmt: skip
        used = [path for name in names if (path := self.path / name).is_file()]
        used += [*self._more_templates(), *sentence_files(self.path)]
        return verify_lock(self.path, [*used, *self._weight_files])

    @cached_property
    def _tokenizer_settings(self) -> Mapping[str, Any]:
        settings = self._optional_json(TOKENIZER_CONFIG)
        if "added_tokens_decoder" in settings:  # since then, the older file is out of use
            return settings
        return {**settings, **self._optional_json(SPECIAL_TOKENS_MAP)}

    @cached_property
    def _weight_map(self) -> dict[str, str]:
        """Tensor -> file, where the weights are cut into several."""
        index = self.path / WEIGHTS_INDEX
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelFolderError(f"{where(index)} has no weight_map")
        for name in weight_map.values():
            if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
                raise ModelFolderError(f"{where(index)} names a file outside the folder")
            if not (self.path / name).is_file():
                raise ModelFolderError(
                    f"{where(index)} names {name}, which is not in the folder: fetch that file"
                )
        return weight_map

    @cached_property
    def _weight_files(self) -> list[Path]:
        """One whole file comes before an index, as in transformers."""
        if (self.path / WEIGHTS).is_file():
            return [self.path / WEIGHTS]
        if (self.path / WEIGHTS_INDEX).is_file():
            return [self.path / name for name in sorted(set(self._weight_map.values()))]
        raise ModelFolderError(self._no_weights())

    def _compare_index(self, tensors: Mapping[str, StoredTensor]) -> None:
        if (self.path / WEIGHTS).is_file():
            return
        for name, file in self._weight_map.items():
            if name not in tensors or tensors[name].file != where(self.path / file):
                raise ModelFolderError(
                    f"{self.name}/{WEIGHTS_INDEX} says that {name[:100]} is in {file}, and it is "
                    "not: the index and the weights are of different releases; fetch both again"
                )

    def _more_templates(self) -> list[Path]:
        return sorted((self.path / MORE_CHAT_TEMPLATES).glob("*.jinja"))

    def _optional_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return read_json(path) if path.is_file() else {}

    # --- refusals ------------------------------------------------------------------------------

    def _no_tokenizer(self) -> str:
        others = [name for name in _OTHER_TOKENIZERS if (self.path / name).is_file()]
        if not others:
            return f"{self.name} has no {TOKENIZER}: fetch it from where the model came from"
        return (
            f"{self.name} has no {TOKENIZER}, only {others[0]}: convert it with transformers, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )

    def _no_weights(self) -> str:
        others = [
            path.name for pattern in _OTHER_WEIGHTS for path in sorted(self.path.glob(pattern))
        ]
        if others:
            return (
                f"{self.name} has no {WEIGHTS}, only {others[0]}, a format that can run code when "
                "it is read: convert it with transformers, "
                "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            )
        if others := [path.name for path in sorted(self.path.glob("*.safetensors"))]:
            return (
                f"{self.name} has {others[0]}, but neither {WEIGHTS} nor {WEIGHTS_INDEX}: fetch "
                "the missing file from where the model came from"
            )
        return f"{self.name} has no {WEIGHTS}: fetch it from where the model came from"


def _refuse_quantized(config_file: str, config: Mapping[str, Any]) -> None:
    if not (settings := config.get("quantization_config")):
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    raise ModelFolderError(
        f"{config_file}: quantization_config says that the weights are quantized "
        f"({str(method or 'unknown method')[:40]}), which Shoal cannot read: use the model's "
        "bfloat16, float16 or float32 release; --quantize int8 makes it small when it is loaded"
    )


def _configured_templates(folder: Path, value: Any) -> dict[str, str]:
    """tokenizer_config.json holds one template, or a list of named ones."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    try:
        templates = {entry["name"]: entry["template"] for entry in value}
    except (TypeError, KeyError) as error:
        raise _bad_templates(folder) from error
    if not all(isinstance(text, str) for pair in templates.items() for text in pair):
        raise _bad_templates(folder)
    return templates


def _bad_templates(folder: Path) -> ModelFolderError:
    return ModelFolderError(
        f"{where(folder / TOKENIZER_CONFIG)}: chat_template must be a text or a list of objects "
        "with name and template"
    )
