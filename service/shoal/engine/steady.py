"""A batch in which every running sequence decodes: its next plan follows from its last one.

What a step has to look at is not each sequence, but those at the edge of a block. The scheduler
makes one when all its sequences decode and drops it when one of them joins or leaves.
"""

from collections import Counter

from shoal.engine.sequence import Sequence
from shoal.protocol.step import StepPlan


class SteadyBatch:
    """The sequences of a step that computed one token of each."""

    def __init__(self, plan: StepPlan, seqs: list[Sequence], block_size: int) -> None:
        """`plan` is the first of these steps, not yet applied; `seqs` in its order."""
        self.seqs = seqs
        self.tenants = Counter(seq.submit.tenant for seq in seqs)
        self.seq_ids = plan.seq_ids
        self._num_new_tokens = plan.num_new_tokens
        self._num_computed_tokens = plan.num_computed_tokens
        self._age = 0
        self._filling: list[list[Sequence]] = [[] for _ in range(block_size)]
        for seq in seqs:
            self._filling[-seq.num_computed_tokens % block_size].append(seq)

    @property
    def at_edge(self) -> list[Sequence]:
        """Those of whom a whole number of blocks is computed, before the step `next_plan` gives
        or after the last one was applied."""
        return self._filling[(self._age + 1) % len(self._filling)]

    def next_plan(self, released: list[int]) -> StepPlan:
        """One more token of each; the caller adds the blocks that those `at_edge` need."""
        self._age += 1
        self._num_computed_tokens = [count + 1 for count in self._num_computed_tokens]
        return StepPlan(
            seq_ids=self.seq_ids,
            num_computed_tokens=self._num_computed_tokens,
            num_new_tokens=self._num_new_tokens,
            released=released,
        )


def is_steady(seq: Sequence) -> bool:
    """Does the sequence only decode, with its prompt behind it and nothing to be made up?"""
    return (
        seq.num_tokens > seq.num_prompt_tokens
        and seq.num_tokens - seq.num_computed_tokens == 1
        and seq.num_charged_tokens == seq.num_computed_tokens + 1
    )
