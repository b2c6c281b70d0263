"""What a fine-tuning run learns from: rows as they were read, and the same as token ids."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the user's data: a chat, or a prompt and its completion, or a text."""

    where: str
    """File and line or record, for errors: "pairs.jsonl, line 7"."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """A chat that ends with the assistant; empty in the other kinds."""
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    completion: str | None = None
    """Beside `prompt`: a pair of texts. A base with a chat template reads it as a user's message
    and the assistant's answer, one without as one text of which the completion is learned."""
    text: str | None = None


class EncodedRow(NamedTuple):
    """Token ids [n] of a row as the server would feed them, and which of them are learned [n]."""

    ids: NDArray[np.int32]
    in_loss: NDArray[np.bool_]
    where: str


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., 2021): W x + (alpha / rank) B A x."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Roles of a layer's matrices: some of model/adapter.py's ADAPTED_ROLES."""
