"""Further tokens of a row whose drafts are right: each position is sampled as if alone."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from shoal.runner.inputs import HeadOutputs
from shoal.runner.rows import Row
from shoal.sampling.sampler import Sampler


@dataclass(slots=True)
class DraftedRow:
    """A row that computes drafts behind its known tokens."""

    row: Row
    draft: list[int]
    first_logits: int
    """Row of the logits of its last known token; those of the drafts follow."""
    position: int
    """Where the first token behind the known ones lies."""


def say_further(
    drafted: DraftedRow, tokens: list[int], head: HeadOutputs, sampler: Sampler, max_tokens: int
) -> None:
    """Appends to `tokens`, which follow the known ones and are accepted, while they are what was
    drafted. Ends before a position that fails: it is the next step's, which meets the same failure.
    `max_tokens`: of the longest sequence."""
    draft, state = drafted.draft, drafted.row.state
    grammar = state.grammar
    while tokens == draft[: len(tokens)] and (grammar is None or not grammar.ended):
        at, position = drafted.first_logits + len(tokens), drafted.position + len(tokens)
        if not isfinite(head.best_logits[at]):
            return
        token_id = int(head.best_ids[at])
        if state.takes_best:
            tokens.append(token_id)
            continue
        if not (state.takes_best_first and (grammar is None or grammar.admits(token_id))):
            (token_id,) = sampler.sample(
                head.logits[at : at + 1],
                [state],
                np.array([position], np.int32),
                head.best_ids[at : at + 1],
            ).tolist()
            if token_id < 0:
                return
        state.accept(token_id)
        sampler.told(state)
        if grammar is not None and grammar.failed:
            return
        tokens += [token_id, *state.take_forced(max_tokens - position - 1)]
