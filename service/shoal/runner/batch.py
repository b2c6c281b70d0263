"""Rows that step together: the arrays of their steps, which logits are wanted, who samples how.

Made when the rows of a plan change. While the plans continue, a step changes its arrays in place:
nothing is gathered, and nothing is done row by row but where a new block begins.
"""

from dataclasses import dataclass

import numpy as np

from shoal.model.spec import EmbeddingSpec
from shoal.protocol.step import StepPlan
from shoal.runner.inputs import Int32, StepInputs
from shoal.runner.pooling import pooled_tokens
from shoal.runner.rows import Row, RowIndices, Rows
from shoal.runner.verify import DraftedRow
from shoal.runner.wishes import Wishes, wishes_of

Chosen = slice | RowIndices
"""Some rows of others; a slice, so without a copy, where they follow each other."""

_SPARE_BLOCKS = 8
"""The block tables of a batch leave room for so many more."""


@dataclass(slots=True)
class PromptLogits:
    """A row that reports log-probabilities of its prompt: its tokens have logits."""

    index: int
    row: Row
    first: int
    """Row of the logits that the first of these tokens has."""
    position: int
    """Where that token lies in the prompt."""


@dataclass(slots=True)
class PooledRow:
    """A row whose prompt's embedding is wanted, and which this step completes."""

    seq_id: int
    first: int
    """Row of the final vectors that its first pooled token has."""
    count: int


class Batch:
    """R rows of one step with T tokens. L tokens have logits, of which the first
    `num_full_logits` are needed in full; E rows get a token. H tokens are pooled."""

    def __init__(
        self,
        plan: StepPlan,
        rows: Rows,
        embedding: EmbeddingSpec | None = None,
        last: Wishes | None = None,
    ) -> None:
        """The plan's diff has been applied to `rows`. `embedding`: of the model. `last`: of the
        batch before."""
        self.seq_ids = plan.seq_ids
        self.rows = [rows[seq_id] for seq_id in plan.seq_ids]
        self._block_size = rows.block_size
        self._row_indices: RowIndices = np.array([row.row_index for row in self.rows], np.int64)
        self._index_of = {seq_id: index for index, seq_id in enumerate(plan.seq_ids)}
        computed = np.array(plan.num_computed_tokens, np.int32)
        counts = np.array(plan.num_new_tokens, np.int32)
        row_starts = np.zeros(len(self.rows) + 1, np.int32)
        np.cumsum(counts, out=row_starts[1:])
        context_lens = computed + counts
        self._embedding = embedding
        self.pooled: list[PooledRow] = []
        self._hidden: list[int] = []  # [H]
        self._lengths: Int32 | None = None
        if plan.drafts:
            drafts = [len(plan.drafts.get(seq_id, ())) for seq_id in plan.seq_ids]
            self._lengths = context_lens - np.array(drafts, np.int32)
        lengths = context_lens if self._lengths is None else self._lengths
        is_at_end: list[bool] = (lengths == rows.num_tokens[self._row_indices]).tolist()
        logit_indices = self._choose_logits(plan, row_starts.tolist(), is_at_end, lengths, last)
        row_of_token, positions = self._row_indices, computed
        if len(self.rows) == 1:
            positions = np.arange(computed[0], context_lens[0], dtype=np.int32)
        elif row_starts[-1] != len(self.rows):
            row_of_token = np.repeat(self._row_indices, counts)
            positions = np.repeat(computed - row_starts[:-1], counts)
            positions += np.arange(len(positions), dtype=np.int32)
        self.inputs = StepInputs(
            token_ids=rows.token_ids[row_of_token, positions],
            positions=positions,
            slots=rows.slots(row_of_token, positions),
            row_starts=row_starts,
            context_lens=context_lens,
            block_tables=rows.tables(self._row_indices, int(context_lens.max()), _SPARE_BLOCKS),
            logit_indices=logit_indices,
            adapter_ids=self._adapter_ids(),
            lens_indices=self._lens_indices(row_starts),
            hidden_indices=np.array(self._hidden, np.int32) if self._hidden else None,
        )
        """The arrays of the step; `advance` changes them."""
        self._sampled: Int32 | None = None
        self._counters: Int32 | None = None
        self.further: dict[int, list[int]] = {}
        """[index in E] tokens that followed the sampled one."""

    @property
    def lengths(self) -> Int32:
        """[R] tokens of the sequence without drafts, so where its next one lies."""
        return self.inputs.context_lens if self._lengths is None else self._lengths

    def advance(self, plan: StepPlan) -> None:
        """On to a plan that continues this one."""
        assert self._sampled is not None, "a step without tokens is not continued"
        inputs, size = self.inputs, self._block_size
        inputs.token_ids = self._sampled
        if self._counters is None:  # one array, so one addition a step
            self._counters = np.stack([inputs.positions, inputs.context_lens, inputs.slots])
            inputs.positions, inputs.context_lens, inputs.slots = self._counters
        self._counters += 1
        for seq_id, (block_id,) in plan.new_block_ids.items():
            index = self._index_of[seq_id]
            block_index = inputs.positions[index] // size
            if block_index == inputs.block_tables.shape[1]:
                inputs.block_tables = np.pad(inputs.block_tables, ((0, 0), (0, _SPARE_BLOCKS)))
            inputs.block_tables[index, block_index] = block_id
            inputs.slots[index] = block_id * size

    def store_sampled(self, token_ids: Int32) -> None:
        """What the E rows sampled [E]; -1 for a row that failed."""
        self._sampled = token_ids

    def flush(self, rows: Rows) -> None:
        """Tells `rows` how far the sequences have come, before others join or some leave."""
        if self._sampled is None:
            return
        lengths = self.lengths[self.output_rows]
        row_indices = self._row_indices[self.output_rows]
        rows.token_ids[row_indices, lengths] = self._sampled
        rows.num_tokens[row_indices] = lengths + 1
        for i, further in self.further.items():
            row_index, start = row_indices[i], lengths[i] + 1
            rows.token_ids[row_index, start : start + len(further)] = further
            rows.num_tokens[row_index] += len(further)
        self._sampled = None

    def _adapter_ids(self) -> Int32 | None:
        """[R] None where no row has an adapter."""
        ids = [row.new.adapter_id for row in self.rows]
        return np.array(ids, np.int32) if any(ids) else None

    def _lens_indices(self, row_starts: Int32) -> Int32 | None:
        """[N] the last token of each row with a trace; None where no row has one."""
        rows = [self.output_rows[i] for i in self.wishes.traced]
        return row_starts[1:][rows] - np.int32(1) if rows else None

    def _choose_logits(
        self,
        plan: StepPlan,
        starts: list[int],
        is_at_end: list[bool],
        lengths: Int32,
        last: Wishes | None,
    ) -> Int32:
        """[L] token indices. Those whose logits are needed in full come first, so that the others
        are never written."""
        full: list[int] = []
        best_only: list[int] = []
        self.output_rows: list[int] = []
        """[E] which of the R rows get an output token."""
        chosen: list[int] = []  # [E] logits of each; below zero those in `best_only`, from its end
        self.prompts: list[PromptLogits] = []
        for index, row in enumerate(self.rows):
            num_computed, output = plan.num_computed_tokens[index], row.new.output
            if output.embedding:
                if is_at_end[index]:
                    self._pool(row, num_computed, starts[index])
                continue
            has_prompt_logits = False
            if output.prompt_logprobs is not None:
                # The token before the first that is reported.
                position = max(num_computed, output.prompt_logprobs_start - 1)
                first = starts[index] + position - num_computed
                in_prompt = position < row.new.num_prompt_tokens - 1
                has_prompt_logits = in_prompt and first < starts[index + 1]
            if has_prompt_logits:
                self.prompts.append(PromptLogits(index, row, len(full), position))
                full.extend(range(first, starts[index + 1]))
            if not is_at_end[index]:
                continue
            self.output_rows.append(index)
            is_full = has_prompt_logits or row.needs_logits
            wanted, end = full if is_full else best_only, starts[index + 1]
            num_drafts = len(plan.drafts.get(row.new.seq_id, ()))
            if not has_prompt_logits:
                wanted.extend(range(end - 1 - num_drafts, end))
            at = len(wanted) - 1 - num_drafts
            chosen.append(at if is_full else -1 - at)
        self.num_full_logits = len(full)
        logits = [at if at >= 0 else len(full) - 1 - at for at in chosen]
        self.drafted: dict[int, DraftedRow] = {}
        """[index in E]"""
        for i, index in enumerate(self.output_rows if plan.drafts else ()):
            if draft := plan.drafts.get(plan.seq_ids[index]):
                position = int(lengths[index])
                self.drafted[i] = DraftedRow(self.rows[index], draft, logits[i], position)
        self._choose_sampled(logits, last)
        return np.array(full + best_only, np.int32)

    def _pool(self, row: Row, num_computed: int, start: int) -> None:
        """Asks for the final vectors of a row's pooled tokens. `start`: of the row in T. Raises
        ValueError for a model that makes no embeddings, or a token that was computed before."""
        if self._embedding is None:
            raise ValueError("the model makes no embeddings")
        positions = pooled_tokens(self._embedding, row.new.num_prompt_tokens)
        if positions[0] < num_computed:
            raise ValueError("a prompt whose tokens are pooled must be computed in one step")
        self.pooled.append(PooledRow(row.new.seq_id, len(self._hidden), len(positions)))
        self._hidden.extend(start + position - num_computed for position in positions)

    def _choose_sampled(self, logits: list[int], last: Wishes | None) -> None:
        """`logits` [E]: which of the L each has."""
        self.wishes = wishes = wishes_of([self.rows[index] for index in self.output_rows], last)
        """Of the E rows."""
        self.logit_rows = as_chosen(logits)
        """[E]"""
        self.sampled_outputs = as_chosen(wishes.sampled)
        self.sampled_indices = as_chosen([self.output_rows[i] for i in wishes.sampled])
        self.sampled_logit_rows = as_chosen([logits[i] for i in wishes.sampled])
        self.reported_logit_rows = as_chosen([logits[i] for i in wishes.reported])
        self.traced_logit_rows = as_chosen([logits[i] for i in wishes.traced])


def as_chosen(indices: list[int]) -> Chosen:
    """A slice where they follow each other."""
    if indices and indices == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return np.array(indices, np.int64)
