"""How far sequences are that have no token yet, for callers who asked to be told."""

from collections.abc import Mapping

from shoal.engine.sequence import Sequence
from shoal.protocol.messages import Progress

INTERVAL_S = 0.5
"""Least time between two reports of one model."""


class ProgressReports:
    """Watches the sequences of one model from their arrival to their first token."""

    def __init__(self, sequences: Mapping[int, Sequence]) -> None:
        """`sequences`: waiting and running, by id; read at each report."""
        self._sequences = sequences
        self._watched: set[int] = set()
        self._due_s = 0.0

    def watch(self, seq_id: int) -> None:
        self._watched.add(seq_id)

    def take(self, now: float, tokens_per_s: float) -> dict[int, Progress]:
        """The reports that are due. `tokens_per_s`: the model's speed, 0 = unknown."""
        if not self._watched or now < self._due_s:
            return {}
        self._due_s = now + INTERVAL_S
        self._watched = {i for i in self._watched if _has_no_token(self._sequences.get(i))}
        return {i: self._report(self._sequences[i], tokens_per_s) for i in self._watched}

    def _report(self, seq: Sequence, tokens_per_s: float) -> Progress:
        processed, total = seq.num_computed_tokens, seq.num_prompt_tokens
        tokens_left, position = total - processed, 0
        if seq.admitted_s is None:
            ahead = [
                other
                for other in self._sequences.values()
                if other.admitted_s is None and other.arrival < seq.arrival
            ]
            position = len(ahead) + 1
            tokens_left += sum(other.num_prompt_tokens for other in ahead)
        eta_ms = round(1000 * tokens_left / tokens_per_s) if tokens_per_s > 0 else None
        return Progress(position, processed, total, eta_ms)


def _has_no_token(seq: Sequence | None) -> bool:
    return seq is not None and seq.num_output_tokens == 0
