"""The text side of a model: tokenizer, chat template, end tokens, default settings.

Weights are the engine's business.
"""

from dataclasses import dataclass
from pathlib import Path

from shoal.checkpoint.files import ModelFiles
from shoal.checkpoint.memory import release_freed_memory
from shoal.checkpoint.open import open_model
from shoal.errors import ModelFolderError
from shoal.protocol.messages import ModelSource
from shoal.text.chat import Chat
from shoal.text.model_defaults import read_defaults, token_name
from shoal.text.tokenizer import Tokenizer


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
    """Sampling defaults that the model's files name."""
    created: int
    """Unix time of the model's config."""
    remarks: tuple[str, ...] = ()
    """What of its files is left out and why, for the operator."""
    parent: str | None = None
    """Of an adapter: the model it changes."""
    adapter_id: int = 0
    adapter_hash: str = ""
    """Digest of the adapter's files."""

    @property
    def base(self) -> str:
        """The engine's model that computes it."""
        return self.parent or self.name


def load_text_model(source: ModelSource) -> TextModel:
    """Raises ModelFolderError for missing or malformed files."""
    model = read_text_model(open_model(Path(source.path)), source.name)
    release_freed_memory()
    return model


def read_text_model(files: ModelFiles, name: str) -> TextModel:
    """The same of a model that is open already."""
    tokenizer = Tokenizer(files.tokenizer)
    defaults = read_defaults(files, tokenizer)
    chat = _chat(name, files, tokenizer)
    return TextModel(
        name=name,
        tokenizer=tokenizer,
        chat=chat,
        end_token_ids=defaults.end_token_ids,
        bos_token=token_name(files, "bos_token"),
        eos_token=token_name(files, "eos_token"),
        pad_token=token_name(files, "pad_token"),
        start_token_id=defaults.start_token_id,
        defaults=defaults.sampling,
        created=files.created,
        remarks=(*defaults.remarks, *chat.remarks),
    )


def _chat(name: str, files: ModelFiles, tokenizer: Tokenizer) -> Chat:
    """A model whose templates cannot be read serves everything else."""
    try:
        return Chat(name, files.chat_templates, tokenizer)
    except ModelFolderError as error:
        return Chat(name, {}, tokenizer, problem=error.message)
