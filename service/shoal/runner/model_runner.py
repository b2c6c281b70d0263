"""Turns plans of one model into tokens: rows, forward pass, sampling, log-probabilities."""

from math import isfinite

import numpy as np

from shoal.protocol.step import StepPlan, StepResult
from shoal.runner.batch import Batch
from shoal.runner.inputs import Backend, BestBackend, HeadOutputs, Int32, StepInputs
from shoal.runner.rows import Rows
from shoal.runner.sampling import NumpySampling, Sampling


class ModelRunner:
    """Keeps rows between steps; its backend keeps the KV cache."""

    def __init__(
        self,
        backend: Backend,
        *,
        num_token_ids: int,
        max_rows: int,
        max_tokens: int,
        block_size: int,
        sampling: Sampling | None = None,
    ) -> None:
        """`num_token_ids`: ids the tokenizer knows; columns of a padded vocabulary beyond
        them can never be sampled. `max_tokens`: longest sequence. `sampling`: None takes the
        sampler of numpy."""
        self._backend = backend
        self._best_backend = backend if isinstance(backend, BestBackend) else None
        self._num_token_ids = num_token_ids
        self._sampling = sampling or NumpySampling(num_token_ids)
        self._rows = Rows(max_rows=max_rows, max_tokens=max_tokens, block_size=block_size)
        self._batch: Batch | None = None

    def run(self, plan: StepPlan) -> StepResult:
        """Computes the plan's rows; see protocol/step.py."""
        batch = self._next_batch(plan)
        head = self._forward(batch.inputs, batch.num_logits)
        result = StepResult([])
        self._sample(batch, head, result)
        if batch.prompts:
            self._report_prompts(plan, batch, head, result)
        return result

    def _next_batch(self, plan: StepPlan) -> Batch:
        batch = self._batch
        if batch is not None:
            if batch.is_next(plan):
                self._rows.extend(plan)
                batch.advance(plan, self._rows)
                return batch
            batch.settle(self._rows)
        self._batch = None  # should the plan be refused
        self._rows.apply_diff(plan)
        self._batch = Batch(plan, self._rows)
        return self._batch

    def _forward(self, inputs: StepInputs, num_logits: int) -> HeadOutputs:
        if self._best_backend is not None:
            return self._best_backend.forward_best(inputs, num_logits)
        logits = self._backend.forward(inputs)[:, : self._num_token_ids]
        best = logits.argmax(axis=1)  # a NaN counts as best
        return HeadOutputs(best.astype(np.int32), logits[np.arange(len(best)), best], logits)

    def _sample(self, batch: Batch, head: HeadOutputs, result: StepResult) -> None:
        token_ids = head.best_ids[batch.end_lines]
        if batch.drawn:
            token_ids[batch.drawn] = self._draw(batch, head)
        tokens: list[int | None] = token_ids.tolist()
        # A sum is finite only if every part is: one look at all rows.
        if (batch.drawn and -1 in tokens) or not isfinite(head.best_logits.sum()):
            is_bad = (token_ids < 0) | ~np.isfinite(head.best_logits[batch.end_lines])
            for at in np.flatnonzero(is_bad).tolist():
                result.errors[batch.seq_ids[batch.end_indices[at]]] = "numerical_error"
                tokens[at] = None
        for at, row in zip(batch.drawn, batch.drawn_rows, strict=True):
            if row.counts is not None and tokens[at] is not None:
                row.counts[1, tokens[at]] += 1
        if batch.reported:
            self._report(batch, head, token_ids, result)
        batch.keep(token_ids)
        if batch.samples_all:
            result.token_ids = tokens
            return
        result.token_ids = [None] * len(batch.rows)
        for index, token_id in zip(batch.end_indices, tokens, strict=True):
            result.token_ids[index] = token_id

    def _draw(self, batch: Batch, head: HeadOutputs) -> Int32:
        """Tokens of the rows that want more than the best one."""
        rows, positions = batch.drawn_rows, batch.inputs.context_lens[batch.drawn_indices]
        for row, position in zip(rows, positions, strict=True):
            if row.new.sampling.has_penalties and row.counts is None:
                known = self._rows.tokens(row, 0, position)
                row.counts = count(known, row.new.num_prompt_tokens, self._num_token_ids)
        return self._sampling.sample(head.logits[batch.drawn_lines], rows, positions)

    def _report(
        self, batch: Batch, head: HeadOutputs, token_ids: Int32, result: StepResult
    ) -> None:
        """Log-probabilities of sampled tokens; none for a row that failed."""
        logits = head.logits[batch.reported_lines]
        chosen = np.maximum(token_ids[batch.reported], 0).tolist()
        found = self._sampling.logprobs(logits, chosen, batch.nums_best)
        for seq_id, logprobs in zip(batch.reported_ids, found, strict=True):
            if seq_id not in result.errors:
                result.logprobs[seq_id] = logprobs

    def _report_prompts(
        self, plan: StepPlan, batch: Batch, head: HeadOutputs, result: StepResult
    ) -> None:
        """Log-probabilities of the prompt tokens that follow those of these chunks."""
        for lines in batch.prompts:
            row, start = lines.row, plan.num_computed_tokens[lines.index]
            end = min(start + plan.num_new_tokens[lines.index], row.new.num_prompt_tokens - 1)
            following = self._rows.tokens(row, start + 1, end + 1).tolist()
            nums_best = [row.new.output.prompt_logprobs or 0] * len(following)
            logits = head.logits[lines.first : lines.first + len(following)]
            found = self._sampling.logprobs(logits, following, nums_best)
            result.prompt_logprobs[row.new.seq_id] = found


def count(token_ids: Int32, num_prompt_tokens: int, num_token_ids: int) -> Int32:
    """[2, token ids] how often each stands in the prompt and in the output."""
    parts = (token_ids[:num_prompt_tokens], token_ids[num_prompt_tokens:])
    return np.stack([np.bincount(part, minlength=num_token_ids) for part in parts]).astype(np.int32)
