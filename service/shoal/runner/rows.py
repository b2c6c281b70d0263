"""What the runner keeps of each sequence between steps, patched by the plan's diff.

Tokens and block tables lie in arrays, one row a sequence, so that the inputs of a step are
gathered without a loop over tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.step import NewRow, StepPlan
from shoal.runner.inputs import Int32, StepInputs

Places = NDArray[np.int64]


@dataclass(slots=True)
class Row:
    """A sequence's place in the arrays, and what sampling needs of it."""

    place: int
    new: NewRow
    num_tokens: int
    """Known tokens: prompt and output."""
    num_blocks: int
    counts: NDArray[np.int32] | None = None
    """[2, vocab] how often each token stands in prompt and output; only with penalties."""

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.new.num_prompt_tokens


class Rows:
    """The rows of one model."""

    def __init__(self, *, max_rows: int, max_tokens: int, block_size: int) -> None:
        """`max_tokens`: longest sequence."""
        self._block_size = block_size
        self._token_ids = np.zeros((max_rows, max_tokens + 1), np.int32)
        self._block_tables = np.zeros((max_rows, -(-max_tokens // block_size) + 1), np.int32)
        self._free = list(range(max_rows - 1, -1, -1))
        self._rows: dict[int, Row] = {}

    def __getitem__(self, seq_id: int) -> Row:
        return self._rows[seq_id]

    def apply_diff(self, plan: StepPlan) -> None:
        """Releases, adds and extends rows as the plan says."""
        for seq_id in plan.released:
            if (row := self._rows.pop(seq_id, None)) is not None:
                self._free.append(row.place)
        for new in plan.new_rows:
            self._add(new)
        for seq_id, block_ids in plan.new_block_ids.items():
            row = self._rows[seq_id]
            end = row.num_blocks + len(block_ids)
            self._block_tables[row.place, row.num_blocks : end] = block_ids
            row.num_blocks = end

    def append_token(self, row: Row, token_id: int) -> None:
        """A sampled token becomes known."""
        self._token_ids[row.place, row.num_tokens] = token_id
        row.num_tokens += 1
        if row.counts is not None:
            row.counts[1, token_id] += 1

    def tokens(self, row: Row, start: int, end: int) -> Int32:
        """Known tokens at these positions."""
        return self._token_ids[row.place, start:end]

    def inputs(self, plan: StepPlan, logit_indices: Int32) -> StepInputs:
        """The arrays of a step; the diff has been applied."""
        places = np.array([self._rows[seq_id].place for seq_id in plan.seq_ids], np.int64)
        computed = np.array(plan.num_computed_tokens, np.int64)
        counts = np.array(plan.num_new_tokens, np.int64)
        row_starts = np.zeros(len(counts) + 1, np.int32)
        np.cumsum(counts, out=row_starts[1:])
        if len(counts) == row_starts[-1]:  # decode rows only
            token_places, positions = places, computed
        else:
            token_places = np.repeat(places, counts)
            positions = np.arange(row_starts[-1]) + np.repeat(computed - row_starts[:-1], counts)
        context_lens = computed + counts
        num_blocks = -(-int(context_lens.max()) // self._block_size)
        return StepInputs(
            token_ids=self._token_ids[token_places, positions],
            positions=positions.astype(np.int32),
            slots=self._slots(token_places, positions),
            row_starts=row_starts,
            context_lens=context_lens.astype(np.int32),
            block_tables=self._block_tables[places, :num_blocks],
            logit_indices=logit_indices,
        )

    def _add(self, new: NewRow) -> None:
        row = Row(self._free.pop(), new, len(new.token_ids), len(new.block_ids))
        self._token_ids[row.place, : row.num_tokens] = new.token_ids
        self._block_tables[row.place, : row.num_blocks] = new.block_ids
        self._rows[new.seq_id] = row

    def _slots(self, places: Places, positions: Places) -> Int32:
        block_ids = self._block_tables[places, positions // self._block_size]
        return block_ids * np.int32(self._block_size) + (positions % self._block_size).astype(
            np.int32
        )
