"""The text side of a model folder: tokenizer, chat template, end tokens, default settings.

Reads JSON files only; weights are the engine's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.checkpoint.open import open_model
from shoal.protocol.messages import ModelSource
from shoal.text.chat_template import ChatTemplate
from shoal.text.tokenizer import Tokenizer

_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class TextModel:
    """What the HTTP side knows of a model before and beside the engine."""

    name: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
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
    files = open_model(Path(source.path))
    tokenizer = Tokenizer(files.tokenizer)
    config, generation = files.config, files.generation_config
    settings = files.tokenizer.settings
    names = {key: _token_name(settings.get(key)) for key in ("bos_token", "eos_token", "pad_token")}
    end_ids = _ids(generation.get("eos_token_id", config.get("eos_token_id")))
    eos_id = tokenizer.special_id(names["eos_token"])
    if not end_ids and eos_id is not None:
        end_ids = (eos_id,)
    starts = (tokenizer.special_id(names["bos_token"]), *_ids(config.get("bos_token_id")), eos_id)
    template = files.chat_templates.get("default")
    return TextModel(
        name=source.name,
        tokenizer=tokenizer,
        chat_template=ChatTemplate(template) if template else None,
        end_token_ids=end_ids,
        start_token_id=next((start for start in starts if start is not None), None),
        defaults=_defaults(generation),
        created=files.created,
        **names,
    )


def _defaults(generation: Mapping[str, Any]) -> dict[str, float]:
    if generation.get("do_sample") is False:
        return {"temperature": 0.0}
    return {
        key: generation[key]
        for key in _DEFAULTS
        if isinstance(generation.get(key), (int, float))
        and not isinstance(generation.get(key), bool)
    }


def _token_name(value: Any) -> str | None:
    """Tokens stand as plain text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(item for item in values if isinstance(item, int) and not isinstance(item, bool))
