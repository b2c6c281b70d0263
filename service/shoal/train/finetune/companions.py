"""Files that belong to a model beside its config and weights: copied from a base that is a folder,
made from what Shoal reads of a base that is one file.
"""

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.hf import (
    CHAT_TEMPLATE,
    CONFIG,
    MORE_CHAT_TEMPLATES,
    SPECIAL_TOKENS_MAP,
    TOKENIZER,
    TOKENIZER_CONFIG,
    HuggingFaceFolder,
)
from shoal.checkpoint.lock import CARD, LOCK_FILE
from shoal.checkpoint.sidecars import GENERATION_CONFIG, QUALITY
from shoal.checkpoint.tokenizer_library import open_library

_COPIED = (
    TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, GENERATION_CONFIG, CHAT_TEMPLATE,
    "chat_template.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken",
    "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_REPLACED = (
    CONFIG, LOCK_FILE, CARD, "README.md", QUALITY, "*.safetensors", "*.safetensors.index.json",
    ".*",
)  # fmt: skip
"""Written anew, or about the base's own weights."""
_IDS = ("bos_token_id", "eos_token_id")


def copy_companions(files: HuggingFaceFolder, folder: Path) -> list[str]:
    """Copy them unchanged. Returns the names of files that are left out, for Shoal does not know
    that they belong to the model."""
    left_out = []
    for path in sorted(files.path.iterdir()):
        if path.name == MORE_CHAT_TEMPLATES and path.is_dir():
            (folder / path.name).mkdir()
            for template in sorted(path.glob("*.jinja")):
                shutil.copyfile(template, folder / path.name / template.name)
        elif path.is_file() and _is_one_of(path.name, _COPIED):
            shutil.copyfile(path, folder / path.name)
        elif not _is_one_of(path.name, _REPLACED):
            left_out.append(path.name)
    return left_out


def make_companions(files: ModelFiles, folder: Path) -> dict[str, Any]:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json of a base that is one
    file: other libraries read of them what Shoal reads of that file. Returns its config.json;
    metadata that Shoal does not use stays out. Raises OSError, ModelFolderError."""
    definition = files.tokenizer.definition()
    text = definition if isinstance(definition, str) else json.dumps(definition, ensure_ascii=False)
    (folder / TOKENIZER).write_text(text + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": files.config.get("max_position_embeddings"),
        **files.tokenizer.settings,
    }
    if templates := files.chat_templates:
        named = [{"name": name, "template": source} for name, source in templates.items()]
        is_one = templates.keys() == {"default"}
        settings["chat_template"] = templates["default"] if is_one else named
    write_json(folder / TOKENIZER_CONFIG, _without_null(settings))
    ids = _ids(files)
    generation = _without_null({**files.generation_config, **ids})
    write_json(folder / GENERATION_CONFIG, generation)
    return {**{key: value for key, value in files.config.items() if "." not in key}, **ids}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """For people too. Raises OSError."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _ids(files: ModelFiles) -> dict[str, Any]:
    """Said in full, for a class has ids of its own where a config says none. Those that no token
    has are left out, as they are when the file itself is served."""
    tokenizer = open_library(files.tokenizer).library
    most = max(tokenizer.get_vocab(with_added_tokens=True).values())
    found: dict[str, Any] = {}
    for key in _IDS:
        value = files.generation_config.get(key)
        if isinstance(value, list):
            found[key] = [index for index in value if 0 <= index <= most] or None
        else:
            found[key] = value if value is not None and 0 <= value <= most else None
    pad = files.tokenizer.settings.get("pad_token")
    return {**found, "pad_token_id": None if pad is None else tokenizer.token_to_id(pad)}


def _without_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
