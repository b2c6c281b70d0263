"""What a choice gained since its reader last looked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from shoal.protocol.messages import Progress, TokenLogprobs
from shoal.protocol.trace import TokenTrace
from shoal.text.logprobs import LogprobColumns

Item = TypeVar("Item")


@dataclass(slots=True)
class Delta:
    """New output of one choice since its previous delta. Hundreds wait for a slow reader: what most
    of them lack takes no memory."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: Sequence[TokenLogprobs] = ()
    """One per token id when logprobs were requested."""
    offsets: Sequence[int] = ()
    """Code points of output text before each token; recorded only with logprobs."""
    prompt_logprobs: Sequence[TokenLogprobs | None] | None = None
    traces: Sequence[TokenTrace] = ()
    """One per sampled token when a trace was requested."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    embedding: bytes | None = None
    """With the end of a sequence whose vector is wanted: little-endian float32 numbers."""
    progress: Progress | None = None
    """Before the first token, if it was asked for; then nothing else is there."""

    def add_logprobs(self, logprobs: TokenLogprobs, offset: int) -> None:
        """Of the token that was added last."""
        self.logprobs = _longer(self.logprobs, (logprobs,))
        self.offsets = _longer(self.offsets, (offset,))

    def merge(self, later: "Delta") -> None:
        """Appends the following delta of the same choice."""
        self.text += later.text
        self.token_ids += later.token_ids
        if later.logprobs:
            self.compact()
            self.logprobs = _longer(self.logprobs or LogprobColumns(), later.logprobs)
        self.offsets = _longer(self.offsets, later.offsets)
        self.traces = _longer(self.traces, later.traces)
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.embedding = later.embedding
        self.progress = later.progress
        self.finish_reason = later.finish_reason
        self.stop_reason = later.stop_reason

    def compact(self) -> None:
        """Keeps log-probabilities in less memory, since the delta is kept for a while."""
        if self.logprobs and not isinstance(self.logprobs, LogprobColumns):
            self.logprobs = LogprobColumns(self.logprobs)
        if self.prompt_logprobs and not isinstance(self.prompt_logprobs, LogprobColumns):
            self.prompt_logprobs = LogprobColumns(self.prompt_logprobs)

    @property
    def num_logprobs(self) -> int:
        """How many numbers there are, when compact."""
        return sum(
            columns.num_values
            for columns in (self.logprobs, self.prompt_logprobs)
            if isinstance(columns, LogprobColumns)
        )


def _longer(known: Sequence[Item], more: Sequence[Item]) -> Sequence[Item]:
    """`known` with `more` behind it, in place where it can be."""
    if not more:
        return known
    if not isinstance(known, list | LogprobColumns):
        return [*known, *more]
    known.extend(more)
    return known
