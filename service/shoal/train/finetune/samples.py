"""Prompts that a model is asked before and after it was taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shoal.train.finetune.rows import EncodedRow, Row

NUM_SAMPLES = 5
_TEXT_PROMPT_TOKENS = 8
_MAX_PROMPT_CHARS = 200


class Question(NamedTuple):
    """A prompt as text for people, and as what the model reads."""

    prompt: str
    token_ids: list[int]


def choose_questions(rows: Sequence[Row], encoded: Sequence[EncodedRow]) -> list[Question]:
    """One of each of the first rows that have a prompt: all before the last answer, or the
    beginning of a text. `rows`: those that `encoded` came from, and maybe more."""
    of_place = {row.where: row for row in rows}
    questions: dict[str, Question] = {}
    for each in encoded:
        if len(questions) == NUM_SAMPLES:
            break
        row = of_place[each.where]
        if each.where not in questions and (token_ids := _prompt_ids(row, each)):
            questions[each.where] = Question(_prompt_text(row), token_ids)
    return list(questions.values())


def _prompt_ids(row: Row, encoded: EncodedRow) -> list[int]:
    if row.text is not None:
        if len(encoded.ids) <= _TEXT_PROMPT_TOKENS:
            return []
        return [int(token) for token in encoded.ids[:_TEXT_PROMPT_TOKENS]]
    learned = encoded.in_loss.astype(np.int8)
    starts = np.flatnonzero(np.diff(learned, prepend=0) == 1)
    return [int(token) for token in encoded.ids[: starts[-1]]] if len(starts) else []


def _prompt_text(row: Row) -> str:
    if row.text is not None:
        text = row.text
    elif row.prompt is not None:
        text = row.prompt
    else:
        asked = [message for message in row.messages if message.get("role") == "user"]
        text = str(asked[-1].get("content")) if asked else ""
    short = " ".join(text.split())
    return short if len(short) <= _MAX_PROMPT_CHARS else short[: _MAX_PROMPT_CHARS - 1] + "…"
