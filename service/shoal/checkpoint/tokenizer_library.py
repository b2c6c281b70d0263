"""The definition of a tokenizer to a tokenizer of the `tokenizers` library."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, models
from tokenizers import __version__ as TOKENIZERS_VERSION

from shoal.checkpoint.files import TokenizerFiles
from shoal.errors import ModelFolderError


@dataclass(frozen=True, slots=True)
class OpenLibrary:
    """A tokenizer of the library, with what the settings beside it say."""

    library: Tokenizer
    special_tokens: dict[str, str]
    """Named special tokens of the settings: "bos_token" to its text, and so on."""
    additional_special_tokens: list[str]
    special_ids: frozenset[int]


def open_library(files: TokenizerFiles) -> OpenLibrary:
    """Raises ModelFolderError when the definition is not one of the `tokenizers` library."""
    definition = files.definition()
    try:
        library = build_library(definition)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Exception for bad JSON; a panic of the library is none
        raise ModelFolderError(
            f"{files.where} is not valid for tokenizers {TOKENIZERS_VERSION} "
            f"({str(error)[:100]}): upgrade that package if the file is newer, or save the "
            "tokenizer again with transformers, "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        ) from error
    library.no_padding()
    library.no_truncation()
    named = _special_tokens(files.settings)
    additional = _additional_special_tokens(files.settings)
    try:
        special = _add_named_tokens(library, files.settings, named, additional)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelFolderError(
            f"{files.where}: the settings beside it list added tokens that are none "
            f"({str(error)[:100]}); fetch both files again from where the model came from"
        ) from error
    special_ids = frozenset(
        token_id
        for token_id, token in library.get_added_tokens_decoder().items()
        if token.special or token.content in special
    )
    return OpenLibrary(library, named, additional, special_ids)


def build_library(definition: str | Mapping[str, Any]) -> Tokenizer:
    """`definition`: JSON in the library's format, as text or as the object it stands for. Raises
    what the library raises.

    The library parses text without releasing the GIL, 0.1 s for 50,000 tokens. So the vocabulary
    and merges of an object are handed over as they are: half of that, and no text in memory."""
    if isinstance(definition, str):
        return Tokenizer.from_str(definition)
    if definition["model"]["type"] != "BPE":
        return Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    model = {**definition["model"], "vocab": {}, "merges": []}
    library = Tokenizer.from_str(json.dumps({**definition, "model": model, "added_tokens": []}))
    options = {k: v for k, v in definition["model"].items() if k != "type" and v is not None}
    library.model = models.BPE(**options)
    added = [{k: v for k, v in token.items() if k != "id"} for token in definition["added_tokens"]]
    library.add_tokens([AddedToken(**token) for token in added])  # their ids are the model's
    return library


def _add_named_tokens(
    library: Tokenizer, settings: Mapping[str, Any], named: dict[str, str], additional: list[str]
) -> frozenset[str]:
    """The settings may make entries of the vocabulary added tokens, and added tokens special,
    whatever the definition says. Returns those that are special by it. A token that is in no
    vocabulary has no row in the model either, and stays unknown."""
    tokens = _listed_tokens(settings)
    added = {token.content for token in library.get_added_tokens_decoder().values()}
    further = (name for name in additional if name not in added)
    names = (*named.values(), *further)
    tokens += [AddedToken(name, special=True, normalized=False) for name in names]
    tokens = [t for t in tokens if library.token_to_id(t.content) is not None]
    library.add_tokens(tokens)
    return frozenset(token.content for token in tokens if token.special)


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Every setting that names a token; also those of one model, such as image_token."""
    extra = settings.get("extra_special_tokens")
    own = {name: value for name, value in settings.items() if name.endswith("_token")}
    values = {**own, **(extra if isinstance(extra, dict) else {})}
    texts = {name: _content(value) for name, value in values.items()}
    return {name: text for name, text in texts.items() if text}


def _additional_special_tokens(settings: Mapping[str, Any]) -> list[str]:
    lists = (settings.get(name) for name in ("additional_special_tokens", "extra_special_tokens"))
    values = [value for items in lists if isinstance(items, list) for value in items]
    return [text for text in map(_content, values) if text]


def _listed_tokens(settings: Mapping[str, Any]) -> list[AddedToken]:
    """The tokens of added_tokens_decoder, in order of their ids."""
    listed = settings.get("added_tokens_decoder")
    entries = listed.items() if isinstance(listed, Mapping) else ()
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        AddedToken(entry["content"], **{flag: entry[flag] for flag in flags if flag in entry})
        for _, entry in sorted(entries, key=lambda pair: int(pair[0]))
    ]


def _content(value: Any) -> str | None:
    """Tokens stand as plain text or as an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None
