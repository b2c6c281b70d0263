"""What the runner keeps of each sequence between steps, patched by the plan's diff.

Tokens, lengths and block tables lie in arrays, one place a sequence, so that the inputs of a
step are gathered without a loop over rows or tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.protocol.step import NewRow, StepPlan
from shoal.runner.inputs import Int32

Places = NDArray[np.int64]


@dataclass(slots=True)
class Row:
    """A sequence's place in the arrays, and what sampling needs of it."""

    place: int
    new: NewRow
    num_blocks: int
    is_plain: bool
    """Are its logits used as they are, always?"""
    needs_logits: bool
    """Is the best token not all that is asked of its last logits?"""
    counts: NDArray[np.int32] | None = None
    """[2, vocab] how often each token stands in prompt and output; only with penalties."""


def make_row(place: int, new: NewRow) -> Row:
    sampling = new.sampling
    has_bans = new.min_tokens > 0 and bool(new.banned_until_min)
    is_plain = not (has_bans or sampling.logit_bias or sampling.has_penalties)
    needs_logits = not (sampling.greedy and is_plain) or new.output.logprobs is not None
    return Row(place, new, len(new.block_ids), is_plain, needs_logits)


class Rows:
    """The rows of one model; arrays are by place."""

    def __init__(self, *, max_rows: int, max_tokens: int, block_size: int) -> None:
        """`max_tokens`: longest sequence."""
        self.block_size = block_size
        self.num_tokens = np.zeros(max_rows, np.int32)
        """Known tokens: prompt and output."""
        self.token_ids = np.zeros((max_rows, max_tokens + 1), np.int32)
        """Those a sequence came with, and the one sampled last: no step reads others."""
        self.block_tables = np.zeros((max_rows, -(-max_tokens // block_size) + 1), np.int32)
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
        self.extend(plan)

    def extend(self, plan: StepPlan) -> None:
        """Adds the plan's blocks to the tables of known rows."""
        for seq_id, block_ids in plan.new_block_ids.items():
            row = self._rows[seq_id]
            end = row.num_blocks + len(block_ids)
            self.block_tables[row.place, row.num_blocks : end] = block_ids
            row.num_blocks = end

    def tokens(self, row: Row, start: int, end: int) -> Int32:
        """Known tokens at these positions."""
        return self.token_ids[row.place, start:end]

    def slots(self, places: Places, positions: Int32) -> Int32:
        """Where the tokens at these places and positions lie in the KV cache."""
        block_indices, offsets = np.divmod(positions, np.int32(self.block_size))
        found: Int32 = self.block_tables[places, block_indices]
        found *= np.int32(self.block_size)
        found += offsets
        return found

    def tables(self, places: Places, num_tokens: int, num_spare: int) -> Int32:
        """Block tables, a copy, wide enough for so many tokens and some more blocks."""
        return self.block_tables[places, : -(-num_tokens // self.block_size) + num_spare]

    def _add(self, new: NewRow) -> None:
        row = make_row(self._free.pop(), new)
        num_tokens = len(new.token_ids)
        self.num_tokens[row.place] = num_tokens
        self.token_ids[row.place, :num_tokens] = new.token_ids
        self.block_tables[row.place, : row.num_blocks] = new.block_ids
        self._rows[new.seq_id] = row
