"""What a fine-tuning run learns from: rows as they were read, and the same as token ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the user's data: a chat, or a prompt and its completion, or a text."""

    where: str
    """File and line or record, for errors: "pairs.jsonl, line 7"."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """A chat that ends with the assistant, as /v1/chat/completions takes messages: role, content
    (a text), and where they have them tool_calls, tool_call_id, name, reasoning_content. Empty in
    the other kinds."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """As /v1/chat/completions takes them."""
    context_only: frozenset[int] = frozenset()
    """Indices of the assistant's messages that are read and not learned."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Variables for the chat template, as chat_template_kwargs of a request."""
    prompt: str | None = None
    completion: str | None = None
    """Beside `prompt`: a pair of texts. A base with a chat template reads it as a user's message
    and the assistant's answer, one without as one text of which the completion is learned."""
    text: str | None = None
    is_end: bool = True
    """Does the text end here? Else the next row goes on with it."""

    def digest(self, salt: str = "") -> bytes:
        """16 bytes that equal rows have in common, wherever they stand."""
        parts = (
            self.messages, self.tools, sorted(self.context_only), self.variables,
            self.prompt, self.completion, self.text, self.is_end,
        )  # fmt: skip
        return blake2b((salt + json.dumps(parts)).encode(), digest_size=16).digest()


class EncodedRow(NamedTuple):
    """Token ids [n] of a row as the server would feed them, and which of them are learned [n]."""

    ids: NDArray[np.int32]
    in_loss: NDArray[np.bool_]
    """Is the id a target, predicted by those before it? Never the first, which has none."""
    where: str


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., 2021): W x + (alpha / rank) B A x."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Roles of a layer's matrices: some of model/adapter.py's ADAPTED_ROLES."""
