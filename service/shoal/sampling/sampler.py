"""The sampler's interface, and what is kept of each sequence between its tokens.

Whatever samples gives the same token for the same logits, state and position, so a sequence gets
its tokens alone, in any batch, and again after a preemption.

Under a grammar tokens are drawn by rejection, for a mask of the whole vocabulary costs more than a
look at one token: the first draw does not know the grammar; a token that the grammar refuses is
drawn again with another random number, of those that it allows. In free text nearly all are
allowed: there the next draws are of all other tokens, and only the last of those it allows.
The probabilities are those of masked logits, for what is refused is shared out in their proportion.
A truncation must know what is allowed before it cuts: those rows are masked from the start.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shoal.protocol.messages import TokenLogprobs
from shoal.protocol.step import NewRow
from shoal.sampling import row_grammar
from shoal.sampling.arrays import Float32, Int32, UInt32
from shoal.sampling.grammars import Grammars
from shoal.sampling.processors import build_processors
from shoal.sampling.processors.base import LogitsProcessor
from shoal.sampling.random import MASK_64
from shoal.sampling.truncation import is_truncated

NUM_OTHERS = 2
"""Draws of all other tokens, in free text."""
_NEXT_DRAW = 0xD1B54A32D192ED03


def seed_of_draw(seed: int, num_refused: int) -> int:
    """Of a token's next draw, when so many were refused."""
    return (seed ^ num_refused * _NEXT_DRAW) & MASK_64


class SamplingState:
    """How one sequence is sampled: its parameters, and its processors with their state."""

    def __init__(self, new: NewRow, num_token_ids: int, grammars: Grammars | None = None) -> None:
        """The processors accept the output tokens that are already there. `grammars`: of the
        model, None where it has none."""
        self.params = new.sampling
        others = build_processors(new, num_token_ids)
        rejects = self.params.greedy or not is_truncated(self.params)
        self.grammar = row_grammar.build(new, num_token_ids, grammars, rejects=rejects)
        self.processors = others if self.grammar is None else (*others, self.grammar)
        self.asked = self.grammar if rejects else None
        """The grammar that is asked about a token after its first draw."""
        # A token that another processor may ban cannot be taken unseen.
        self._forces = not any(processor.may_ban for processor in others)
        self.first_processors = self.processors if self.asked is None else others
        """Those whose masks the first draw knows."""
        self.is_checked = (
            self.asked is not None and len(self.processors) == 1 and not self.asked.masks_first
        )
        """May a mask that its grammar is known to have decide about the first draw, instead?"""
        self.may_be_left = self.grammar is not None and len(self.processors) == 1
        """Is nobody but its grammar told of tokens?"""
        self.is_masked = self.may_be_left and self.asked is None
        """Does the first draw know its grammar's mask, and no other?"""
        self.changes_logits = any(
            type(processor).apply is not LogitsProcessor.apply for processor in self.processors
        )
        """Does a processor do more than mask?"""
        self.takes_best = self.params.greedy and not self.processors
        """Is each token the best of the logits as they are?"""
        self.takes_best_first = self.params.greedy and not self.first_processors
        """Is its first draw the best of the logits as they are?"""
        for token_id in new.output_token_ids:
            self.accept(token_id)

    @property
    def goes_on(self) -> bool:
        """Is the next token one to be sampled?"""
        return self.grammar is None or self.grammar.goes_on

    def accept(self, token_id: int) -> None:
        """The sequence's next output token."""
        for processor in self.processors:
            processor.accept(token_id)

    def take_forced(self, most: int) -> list[int]:
        """Up to so many tokens that must come next, accepted; none where they are sampled."""
        if self.grammar is None or not self._forces:
            return []
        forced = self.grammar.take_forced(most)
        for processor in self.processors[:-1]:
            for token_id in forced:
                processor.accept(token_id)
        return forced

    def apply(self, logits: Float32) -> None:
        """All but the allow-mask, in place on logits [num_token_ids]."""
        for processor in self.processors:
            processor.apply(logits)

    def allow_mask(self, *, again: bool = True) -> UInt32 | None:
        """What every processor allows, see `LogitsProcessor.allow_mask`; without `again` for the
        first draw."""
        processors = self.processors if again else self.first_processors
        if len(processors) == 1:
            return processors[0].allow_mask
        masks = [mask for p in processors if (mask := p.allow_mask) is not None]
        if len(masks) == 1:
            return masks[0]
        return np.bitwise_and.reduce(masks) if masks else None


class Sampler(Protocol):
    """Tokens and log-probabilities of logits [n, columns], which stay as they are. A padded
    vocabulary has more columns than the tokenizer has ids: those are never sampled."""

    def sample(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        positions: Int32,
        best_ids: Int32 | None = None,
    ) -> Int32:
        """A token for each row, at its position [n] of the sequence; -1 where no logit is finite,
        also when every token is banned. A list of states that was given before must hold the same
        ones. `best_ids` [n]: where they are known, those of the largest logits, of equals the
        lowest."""
        ...

    def accept(self, states: Sequence[SamplingState], tokens: Sequence[int | None]) -> list[int]:
        """The tokens that were sampled last are the rows' next ones, but for None. Returns rows
        whose next token is not to be sampled: their grammar forces it, or is over."""
        ...

    def told(self, state: SamplingState) -> None:
        """It has accepted a token that was not sampled with the others, or that came behind it."""
        ...

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        """Of each row's token and of its `nums_top` best ids, ties by lowest id: natural
        log-probabilities over all columns, as the model gave them. A row without a finite best
        logit has -inf and no best."""
        ...


def mask_logits(logits: Float32, allow_mask: UInt32) -> None:
    """Bans what the mask does not allow, in place on logits [num_token_ids]."""
    bits = np.unpackbits(allow_mask.view(np.uint8), bitorder="little", count=len(logits))
    logits[bits == 0] = -np.inf
