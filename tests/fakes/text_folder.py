"""A model folder without weights: byte-level tokenizer, chat template, generation config."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
END_ID, CLOSE_ID = 256, 260
VOCAB_SIZE = 256 + len(SPECIALS)


def byte_tokenizer() -> Tokenizer:
    """One token per byte, then the special tokens: ids 256 and up."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_of)
    tokenizer = Tokenizer(
        models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIALS])
    return tokenizer


def write_text_folder(folder: Path, *, chat: bool = True, **generation: Any) -> Path:
    """Everything the text side reads; `generation` goes into generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    if chat:
        settings["chat_template"] = CHAT_TEMPLATE
    _write(folder / "tokenizer_config.json", settings)
    _write(folder / "config.json", {"eos_token_id": END_ID, "bos_token_id": END_ID})
    _write(folder / "generation_config.json", {"eos_token_id": END_ID, **generation})
    return folder


def write_encoder_folder(folder: Path) -> Path:
    """The same of a model that writes no text: texts begin with END_ID and end with CLOSE_ID."""
    write_text_folder(folder, chat=False)
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|end|>",
        special_tokens=[("<|endoftext|>", END_ID), ("<|end|>", CLOSE_ID)],
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


@cache
def _byte_of(char: str) -> int:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if ord(char) < 256:
        return ord(char)
    return [byte for byte in range(256) if byte not in printable][ord(char) - 256]
