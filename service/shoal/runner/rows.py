"""What the runner keeps of each sequence between steps, patched by the plan's diff.

Tokens, lengths and block tables lie in arrays, one row a sequence, so that the inputs of a step
are gathered without a loop over rows or tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.step import NewRow, StepPlan
from shoal.runner.inputs import Int32
from shoal.sampling.grammars import Grammars
from shoal.sampling.sampler import SamplingState

RowIndices = NDArray[np.int64]


@dataclass(slots=True)
class Row:
    """One sequence: where it lies in the arrays, and how it is sampled."""

    row_index: int
    new: NewRow
    num_blocks: int
    state: SamplingState
    reports: bool
    """Is anything reported of each of its tokens?"""
    needs_logits: bool
    """Is more wanted of its last logits than the best token?"""


class Rows:
    """The rows of one model."""

    def __init__(
        self,
        *,
        max_rows: int,
        max_tokens: int,
        block_size: int,
        num_token_ids: int,
        grammars: Grammars | None = None,
    ) -> None:
        """`max_tokens`: longest sequence. `num_token_ids`: ids that can be sampled."""
        self.max_tokens = max_tokens
        self._grammars = grammars
        self.block_size = block_size
        self.num_tokens = np.zeros(max_rows, np.int32)
        """[row_index] known tokens: prompt and output."""
        self.token_ids = np.zeros((max_rows, max_tokens + 1), np.int32)
        """Those a sequence came with, and those of its last step: no step reads others."""
        self.block_tables = np.zeros((max_rows, -(-max_tokens // block_size) + 1), np.int32)
        self._num_token_ids = num_token_ids
        self._free = list(range(max_rows - 1, -1, -1))
        self._rows: dict[int, Row] = {}

    def __getitem__(self, seq_id: int) -> Row:
        return self._rows[seq_id]

    def apply_diff(self, plan: StepPlan) -> None:
        """Releases, adds and extends rows as the plan says; drafts lie behind the known tokens."""
        for seq_id in plan.released:
            if (row := self._rows.pop(seq_id, None)) is not None:
                self._free.append(row.row_index)
        for new in plan.new_rows:
            self._add(new)
        self.extend(plan)
        for seq_id, draft in plan.drafts.items():
            row_index = self._rows[seq_id].row_index
            start = self.num_tokens[row_index]
            self.token_ids[row_index, start : start + len(draft)] = draft

    def extend(self, plan: StepPlan) -> None:
        """Adds the plan's blocks to the block tables of known rows."""
        for seq_id, block_ids in plan.new_block_ids.items():
            row = self._rows[seq_id]
            end = row.num_blocks + len(block_ids)
            self.block_tables[row.row_index, row.num_blocks : end] = block_ids
            row.num_blocks = end

    def tokens(self, row: Row, start: int, end: int) -> Int32:
        """Known tokens at these positions."""
        return self.token_ids[row.row_index, start:end]

    def slots(self, row_indices: RowIndices, positions: Int32) -> Int32:
        """Where the tokens at these positions of these rows lie in the KV cache."""
        block_indices, offsets = np.divmod(positions, np.int32(self.block_size))
        slots: Int32 = self.block_tables[row_indices, block_indices]
        slots *= np.int32(self.block_size)
        slots += offsets
        return slots

    def tables(self, row_indices: RowIndices, num_tokens: int, num_spare: int) -> Int32:
        """Block tables, a copy, wide enough for so many tokens and some more blocks."""
        return self.block_tables[row_indices, : -(-num_tokens // self.block_size) + num_spare]

    def _add(self, new: NewRow) -> None:
        state = SamplingState(new, self._num_token_ids, self._grammars)
        reports = new.output.logprobs is not None or new.output.trace is not None
        needs_logits = reports or not state.takes_best
        row = Row(self._free.pop(), new, len(new.block_ids), state, reports, needs_logits)
        num_tokens = len(new.token_ids)
        self.num_tokens[row.row_index] = num_tokens
        self.token_ids[row.row_index, :num_tokens] = new.token_ids
        self.block_tables[row.row_index, : row.num_blocks] = new.block_ids
        self._rows[new.seq_id] = row
