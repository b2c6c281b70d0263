"""Rows that step together: the arrays of their steps, which logits are wanted, who samples how.

Made when the rows of a plan change. While each of them decodes, a step changes its arrays in
place: nothing is gathered, and nothing is done row by row but at the edge of a block.
"""

from dataclasses import dataclass

import numpy as np

from shoal.protocol.step import StepPlan
from shoal.runner.inputs import Int32, StepInputs
from shoal.runner.rows import Places, Row, Rows

Lines = slice | Places
"""Which lines of an array; a slice, so without a copy, where they follow each other."""

_SPARE_BLOCKS = 8
"""The block tables of a batch leave room for so many more."""


@dataclass(slots=True)
class PromptLines:
    """A row that reports log-probabilities of its prompt: each of its tokens has a line."""

    index: int
    row: Row
    first: int


class Batch:
    """R rows of one step, T tokens, L lines of logits of which the first `num_logits` are needed
    in full, E rows that sample a token."""

    def __init__(self, plan: StepPlan, rows: Rows) -> None:
        """The plan's diff has been applied to `rows`."""
        self.seq_ids = plan.seq_ids
        self.rows = [rows[seq_id] for seq_id in plan.seq_ids]
        self._num_new_tokens = plan.num_new_tokens
        self._block_size = rows.block_size
        self._places: Places = np.array([row.place for row in self.rows], np.int64)
        self._index_of = {seq_id: index for index, seq_id in enumerate(plan.seq_ids)}
        computed = np.array(plan.num_computed_tokens, np.int32)
        counts = np.array(plan.num_new_tokens, np.int32)
        row_starts = np.zeros(len(self.rows) + 1, np.int32)
        np.cumsum(counts, out=row_starts[1:])
        context_lens = computed + counts
        is_at_end: list[bool] = (context_lens == rows.num_tokens[self._places]).tolist()
        self._choose_lines(plan, row_starts.tolist(), is_at_end)
        self._is_steady = (
            int(row_starts[-1]) == len(self.rows) and self.samples_all and not self.prompts
        )
        token_places, positions = self._places, computed
        if row_starts[-1] != len(self.rows):
            token_places = np.repeat(self._places, counts)
            positions = np.repeat(computed - row_starts[:-1], counts)
            positions += np.arange(len(positions), dtype=np.int32)
        self._inputs = StepInputs(
            token_ids=rows.token_ids[token_places, positions],
            positions=positions,
            slots=rows.slots(token_places, positions),
            row_starts=row_starts,
            context_lens=context_lens,
            block_tables=rows.tables(self._places, int(context_lens.max()), _SPARE_BLOCKS),
            logit_indices=self._logit_indices,
        )
        self._sampled: Int32 | None = None
        if self._is_steady:
            self._prepare_to_advance()

    @property
    def inputs(self) -> StepInputs:
        """The arrays of the step; `advance` changes them."""
        return self._inputs

    def is_next(self, plan: StepPlan) -> bool:
        """Is the plan one more token of each of these rows, and nothing else?"""
        return (
            self._is_steady
            and self._num_spare_steps > 0
            and plan.seq_ids == self.seq_ids
            and plan.num_new_tokens == self._num_new_tokens
            and not (plan.new_rows or plan.released)
        )

    def advance(self, plan: StepPlan, rows: Rows) -> None:
        """On to the next step; `is_next(plan)` holds, and `rows` has the blocks it adds."""
        assert self._sampled is not None, "a step without tokens has no next one"
        inputs, size = self._inputs, self._block_size
        width = inputs.block_tables.shape[1]
        for seq_id in plan.new_block_ids:
            index = self._index_of[seq_id]
            inputs.block_tables[index] = rows.block_tables[self.rows[index].place, :width]
        self._counters += 1
        self._age += 1
        self._num_spare_steps -= 1
        for index in self._crossing[self._age % size]:
            block_id = inputs.block_tables[index, inputs.positions[index] // size]
            inputs.slots[index] = block_id * size
        inputs.token_ids = self._sampled

    def _prepare_to_advance(self) -> None:
        """Three numbers of each row grow by one a step, but a slot where a block is full."""
        inputs, size = self._inputs, self._block_size
        self._counters = np.stack([inputs.positions, inputs.context_lens, inputs.slots])
        inputs.positions, inputs.context_lens, inputs.slots = self._counters
        self._age = 0
        self._crossing: list[list[int]] = [[] for _ in range(size)]
        for index, position in enumerate(inputs.positions.tolist()):
            self._crossing[-position % size].append(index)
        longest = int(inputs.context_lens.max())
        self._num_spare_steps = inputs.block_tables.shape[1] * size - longest

    def keep(self, token_ids: Int32) -> None:
        """What the E rows sampled [E]; -1 for a row that failed."""
        self._sampled = token_ids

    def settle(self, rows: Rows) -> None:
        """Tells `rows` how far the sequences have come, before others join or some leave."""
        if self._sampled is None:
            return
        lengths = self._inputs.context_lens[self.end_indices]
        places = self._places[self.end_indices]
        rows.token_ids[places, lengths] = self._sampled
        rows.num_tokens[places] = lengths + 1
        self._sampled = None

    def _choose_lines(self, plan: StepPlan, starts: list[int], is_at_end: list[bool]) -> None:
        """Lines that are needed in full come first, so that the others are never written."""
        whole: list[int] = []  # token indices
        plain: list[int] = []  # token indices of rows that only need the best id
        self.end_indices: list[int] = []
        """[E] which rows of the plan sample, in its order."""
        lines: list[int] = []  # [E]; below zero those of `plain`, whose place is not yet known
        self.prompts: list[PromptLines] = []
        for index, row in enumerate(self.rows):
            new = row.new
            in_prompt = plan.num_computed_tokens[index] < new.num_prompt_tokens - 1
            in_prompt_lines = in_prompt and new.output.prompt_logprobs is not None
            if in_prompt_lines:
                self.prompts.append(PromptLines(index, row, len(whole)))
                whole.extend(range(starts[index], starts[index + 1]))
            elif is_at_end[index]:
                (whole if row.needs_logits else plain).append(starts[index + 1] - 1)
            if is_at_end[index]:
                in_full = row.needs_logits or in_prompt_lines
                self.end_indices.append(index)
                lines.append(len(whole) - 1 if in_full else -len(plain))
        self.num_logits = len(whole)
        self._logit_indices: Int32 = np.array(whole + plain, np.int32)
        self.samples_all = len(self.end_indices) == len(self.rows)
        self._choose_ends([line if line >= 0 else len(whole) - 1 - line for line in lines])

    def _choose_ends(self, lines: list[int]) -> None:
        """`lines` [E]: where the logits of each are."""
        rows = [self.rows[index] for index in self.end_indices]
        self.end_lines = as_lines(lines)
        self.drawn = [
            at for at, row in enumerate(rows) if not (row.new.sampling.greedy and row.is_plain)
        ]
        """Which of the E want more than the best token of the logits as they are."""
        self.drawn_rows = [rows[at] for at in self.drawn]
        self.drawn_indices = [self.end_indices[at] for at in self.drawn]
        self.drawn_lines = as_lines([lines[at] for at in self.drawn])
        self.reported = [at for at, row in enumerate(rows) if row.new.output.logprobs is not None]
        """Which of the E report log-probabilities."""
        self.reported_lines = as_lines([lines[at] for at in self.reported])
        self.reported_ids = [self.seq_ids[self.end_indices[at]] for at in self.reported]
        self.nums_best = [rows[at].new.output.logprobs or 0 for at in self.reported]


def as_lines(lines: list[int]) -> Lines:
    """A slice where the lines follow each other."""
    if lines and lines == list(range(lines[0], lines[0] + len(lines))):
        return slice(lines[0], lines[0] + len(lines))
    return np.array(lines, np.int64)
