"""Beam search, as Hugging Face's generate does it: which sequences to continue, and when to stop.

Knows log-probabilities only; `beam_generation.py` asks the engine for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shoal.protocol.messages import TokenLogprobs

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, slots=True)
class BeamParams:
    """Of one request."""

    width: int
    """Sequences that are continued at every step."""
    length_penalty: float = 1.0
    """A finished sequence is worth its log-probability / length ** this."""
    early_stopping: EarlyStopping = False
    """True: stop with as many finished sequences as the width. False: when the best running one
    looks no better. "never": when it cannot become better."""


class Beam(NamedTuple):
    """One sequence of output tokens."""

    token_ids: tuple[int, ...]
    logprob: float
    """Sum over its tokens."""
    entries: tuple[TokenLogprobs, ...]
    """What the model said at each of them."""


class BeamSearch:
    """The search from one prompt. While `is_done` is False: `advance` with the continuations of
    every running sequence."""

    def __init__(
        self, params: BeamParams, end_ids: frozenset[int], *, max_tokens: int, min_tokens: int = 0
    ) -> None:
        self.running = [Beam((), 0.0, ())]
        """Best first."""
        self.is_done = max_tokens == 0
        self._params = params
        self._end_ids = end_ids
        self._max_tokens = max_tokens
        self._min_tokens = min_tokens
        self._finished: list[tuple[float, Beam]] = []  # best first

    @property
    def num_candidates(self) -> int:
        """Continuations that are looked at: of each running sequence so many must be known."""
        return max(2, 1 + len(self._end_ids)) * self._params.width

    def advance(self, continuations: Sequence[TokenLogprobs]) -> None:
        """`continuations[i]`: the best tokens after `running[i]`, `num_candidates` and the end ids,
        or all there are."""
        candidates = self._candidates(continuations)
        length = len(candidates[0].token_ids) if candidates else self._max_tokens
        for beam in candidates[: self._params.width]:
            if self._ends(beam):
                self._finish(beam)
        going_on = [beam for beam in candidates if not self._ends(beam)]
        self.running = going_on[: self._params.width]
        self.is_done = not self.running or not self._can_improve(length)

    def best(self, count: int) -> list[Beam]:
        """The best finished sequences, then, if the search was cut short, running ones."""
        finished = [beam for _, beam in self._finished]
        return [*finished, *self.running][:count]

    def ends_itself(self, beam: Beam) -> bool:
        """Is its last token an end token?"""
        return bool(beam.token_ids) and beam.token_ids[-1] in self._end_ids

    def _candidates(self, continuations: Sequence[TokenLogprobs]) -> list[Beam]:
        """The best continuations of all running sequences together, best first."""
        found: list[tuple[float, int, int, float]] = []
        for index, (beam, said) in enumerate(zip(self.running, continuations, strict=True)):
            may_end = len(beam.token_ids) >= self._min_tokens
            for token_id, logprob in zip(said.top_ids, said.top_logprobs, strict=True):
                if may_end or token_id not in self._end_ids:
                    found.append((-(beam.logprob + logprob), index, token_id, logprob))
        found.sort()
        return [
            self._extended(index, token_id, logprob, continuations[index])
            for _, index, token_id, logprob in found[: self.num_candidates]
        ]

    def _extended(self, index: int, token_id: int, logprob: float, said: TokenLogprobs) -> Beam:
        beam = self.running[index]
        entry = TokenLogprobs(token_id, logprob, said.top_ids, said.top_logprobs)
        return Beam((*beam.token_ids, token_id), beam.logprob + logprob, (*beam.entries, entry))

    def _ends(self, beam: Beam) -> bool:
        return self.ends_itself(beam) or len(beam.token_ids) >= self._max_tokens

    def _finish(self, beam: Beam) -> None:
        width = self._params.width
        if self._params.early_stopping is True and len(self._finished) == width:
            return
        score = beam.logprob / float(len(beam.token_ids) ** self._params.length_penalty)
        self._finished.append((score, beam))
        self._finished.sort(key=lambda pair: -pair[0])  # of equal ones the first stays first
        del self._finished[width:]

    def _can_improve(self, length: int) -> bool:
        """Might a running sequence become better than the worst of `width` finished ones?"""
        if len(self._finished) < self._params.width:
            return True
        if self._params.early_stopping is True:
            return False
        penalty = self._params.length_penalty
        is_longest_best = self._params.early_stopping == "never" and penalty > 0
        best_length = self._max_tokens if is_longest_best else length
        best_score = self.running[0].logprob / float(best_length**penalty)
        return best_score > self._finished[-1][0]
