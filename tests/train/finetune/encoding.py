"""Chats and models whose rows tests encode, and what was learned of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from shoal.config import Settings
from shoal.server.api.chat.messages import ChatPrompt, chat_prompt
from shoal.text.chat import Chat
from shoal.text.text_model import TextModel
from shoal.train.finetune.rows import EncodedRow
from tests.fakes.fake_runner import loaded_model
from tests.fakes.text_folder import byte_tokenizer
from tests.unit.text.building import text_model, wrap
from tests.unit.text.chat_kinds import TEMPLATES, tokenizer

SETTINGS = Settings()
MODELS = Path(__file__).parents[3] / "models"
PARTS = (
    "<|im_end|>", "<|im_start|>", "</s>", "<s>", "[/INST]", "<User>", "<Bot>", "<|end|>", "<", "|>",
    "hello", "the", "user", "x", " ", "  ", "\n", "\n\n", "é", "日本", "\ufdd1", "\ufde0",
)  # fmt: skip
CONTENTS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(lambda p: "".join(p) + ".")
GENERATION = {
    "blocks": (
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "header too": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ '<|assistant|>' + m.content + '</s>' }}{% endgeneration %}"
        "{% else %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    ),
    "inside words": (
        "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n"
        "{% else %}A:{% generation %} {{ m.content }}</s>{% endgeneration %}{% endif %}{% endfor %}"
    ),
}

GENERATION["without blocks"] = (
    GENERATION["blocks"].replace("{% generation %}", "").replace("{% endgeneration %}", "")
)


def chat_of(*contents: str) -> tuple[dict[str, str], ...]:
    roles = ("user", "assistant") * len(contents)
    return tuple({"role": r, "content": c} for r, c in zip(roles, contents, strict=False))


def tiny(template: str | None, *, end: str = "<|end|>", **named: str) -> TextModel:
    """One token per byte; `end`: the end token."""
    wrapped = wrap(byte_tokenizer(), **{"eos_token": end, **named})
    chat = Chat("tiny", {} if template is None else {"default": template}, wrapped)
    end_id = wrapped.special_id(end)
    ends = () if end_id is None else (end_id,)
    return text_model(wrapped, chat=chat, end_token_ids=ends, bos_token=named.get("bos_token"))


@cache
def kind_model(kind: str, template: str) -> TextModel:
    wrapped = tokenizer(kind)
    ends = tuple(wrapped.special_id(name) or 0 for name in ("</s>", "<|im_end|>", "<|end|>"))
    sources = {**TEMPLATES, **GENERATION}
    chat = Chat("tiny", {"default": sources[template]}, wrapped)
    return text_model(wrapped, chat=chat, end_token_ids=ends)


def runs(row: EncodedRow) -> Iterator[tuple[int, int]]:
    """Where what is learned begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row.in_loss, [False]]).astype(int)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def learned(model: TextModel, rows: Sequence[EncodedRow]) -> list[str]:
    return [
        model.tokenizer.decode(row.ids[start:end].tolist(), skip_special_tokens=False)
        for row in rows
        for start, end in runs(row)
    ]


def whole(model: TextModel, row: EncodedRow) -> str:
    return model.tokenizer.decode(row.ids.tolist(), skip_special_tokens=False)


def served(model: TextModel, messages: Sequence[Any], **fields: Any) -> list[int]:
    """The prompt of /v1/chat/completions."""
    body = {"messages": list(messages), **fields}
    prompt = ChatPrompt.model_validate(body, context=SETTINGS)
    return list(asyncio.run(chat_prompt(prompt, model, loaded_model(max_model_len=4096))).token_ids)
