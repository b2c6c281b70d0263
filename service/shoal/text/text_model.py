"""The text side of a model folder: tokenizer, chat template, end tokens, default settings.

Reads JSON files only; weights are the engine's business.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.checkpoint.files import TokenizerFiles
from shoal.errors import ModelFolderError
from shoal.protocol.messages import ModelSource
from shoal.text.chat import Chat
from shoal.text.tokenizer import Tokenizer

_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class TextModel:
    """What the HTTP side knows of a model before and beside the engine."""

    name: str
    tokenizer: Tokenizer
    chat: Chat
    end_token_ids: tuple[int, ...]
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    start_token_id: int | None
    """What an empty prompt starts from: BOS, else EOS, else nothing."""
    defaults: dict[str, float]
    """Sampling defaults of generation_config.json that Shoal understands."""
    created: int
    """Unix time of the weights' folder."""


def load_text_model(source: ModelSource) -> TextModel:
    """Raises ModelFolderError for missing or malformed files."""
    folder = Path(source.path)
    config = _read_json(folder / "config.json")
    settings = _read_json(folder / "tokenizer_config.json", optional=True)
    tokenizer = Tokenizer(_tokenizer_files(folder, settings))
    generation = _read_json(folder / "generation_config.json", optional=True)
    keys = ("bos_token", "eos_token", "pad_token")
    names = {key: tokenizer.special_tokens.get(key) for key in keys}
    end_ids = _ids(generation.get("eos_token_id", config.get("eos_token_id")))
    eos_id = tokenizer.special_id(names["eos_token"])
    if not end_ids and eos_id is not None:
        end_ids = (eos_id,)
    starts = (tokenizer.special_id(names["bos_token"]), *_ids(config.get("bos_token_id")), eos_id)
    return TextModel(
        name=source.name,
        tokenizer=tokenizer,
        chat=Chat(source.name, _chat_templates(folder, settings), tokenizer),
        end_token_ids=end_ids,
        start_token_id=next((start for start in starts if start is not None), None),
        defaults=_defaults(generation),
        created=int((folder / "config.json").stat().st_mtime),
        **names,
    )


def _defaults(generation: dict[str, Any]) -> dict[str, float]:
    if generation.get("do_sample") is False:
        return {"temperature": 0.0}
    return {
        key: generation[key]
        for key in _DEFAULTS
        if isinstance(generation.get(key), (int, float))
        and not isinstance(generation.get(key), bool)
    }


def _tokenizer_files(folder: Path, settings: dict[str, Any]) -> TokenizerFiles:
    where = f"{folder.name}: tokenizer.json"
    special = _read_json(folder / "special_tokens_map.json", optional=True)
    try:
        definition = (folder / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{where} cannot be read") from error
    return TokenizerFiles(definition, {**special, **settings}, where)


def _chat_templates(folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    own_file = folder / "chat_template.jinja"
    if own_file.is_file():
        return {"default": own_file.read_text(encoding="utf-8")}
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return {"default": template} if isinstance(template, str) else {}


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path.parent.name}: {path.name} cannot be read") from error
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path.parent.name}: {path.name} is not a JSON object")
    return value


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int) and not isinstance(item, bool))
