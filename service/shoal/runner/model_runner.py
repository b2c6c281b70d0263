"""Turns plans of one model into tokens: rows, forward pass, sampling, log-probabilities."""

import numpy as np

from shoal.protocol.step import StepPlan, StepResult
from shoal.runner.inputs import Backend, Float32, Int32
from shoal.runner.rows import Row, Rows
from shoal.runner.sampler import Sampler, SampleRow


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
    ) -> None:
        """`num_token_ids`: ids the tokenizer knows; columns of a padded vocabulary beyond
        them can never be sampled. `max_tokens`: longest sequence."""
        self._backend = backend
        self._num_token_ids = num_token_ids
        self._sampler = Sampler(num_token_ids)
        self._rows = Rows(max_rows=max_rows, max_tokens=max_tokens, block_size=block_size)

    def run(self, plan: StepPlan) -> StepResult:
        """Computes the plan's rows; see protocol/step.py."""
        self._rows.apply_diff(plan)
        rows = [self._rows[seq_id] for seq_id in plan.seq_ids]
        wanted = _WantedLogits(plan, rows)
        logits = self._backend.forward(self._rows.inputs(plan, wanted.indices))
        logits = logits[:, : self._num_token_ids]
        result = StepResult([None] * len(rows))
        self._sample(plan, rows, wanted, logits, result)
        for index in wanted.prompt_rows:
            self._report_prompt(plan, rows, wanted, logits, index, result)
        return result

    def _sample(
        self,
        plan: StepPlan,
        rows: list[Row],
        wanted: "_WantedLogits",
        logits: Float32,
        result: StepResult,
    ) -> None:
        ends = wanted.end_rows
        if not ends:
            return
        at_end = [wanted.last_of[index] for index in ends]
        last = logits if len(at_end) == len(logits) else logits[at_end]
        tokens = self._sampler.sample(last, [self._sample_row(rows[index]) for index in ends])
        reported: list[int] = []  # lines whose log-probabilities are wanted
        for line, (index, token_id) in enumerate(zip(ends, tokens, strict=True)):
            if token_id is None:
                result.errors[plan.seq_ids[index]] = "numerical_error"
                continue
            result.token_ids[index] = token_id
            if rows[index].new.output.logprobs is not None:
                reported.append(line)
            self._rows.append_token(rows[index], token_id)
        if reported:
            self._report(plan, rows, last, [(line, ends[line]) for line in reported], result)

    def _report(
        self,
        plan: StepPlan,
        rows: list[Row],
        logits: Float32,
        lines: list[tuple[int, int]],
        result: StepResult,
    ) -> None:
        """Log-probabilities of sampled tokens; `lines`: (line of the logits, row)."""
        token_ids = [result.token_ids[index] or 0 for _, index in lines]
        nums_best = [rows[index].new.output.logprobs or 0 for _, index in lines]
        found = self._sampler.logprobs(logits[[line for line, _ in lines]], token_ids, nums_best)
        for (_, index), logprobs in zip(lines, found, strict=True):
            result.logprobs[plan.seq_ids[index]] = logprobs

    def _sample_row(self, row: Row) -> SampleRow:
        new = row.new
        banned = new.banned_until_min if row.num_output_tokens < new.min_tokens else ()
        if new.sampling.has_penalties and row.counts is None:
            row.counts = self._count(row)
        return SampleRow(new.sampling, row.num_tokens, banned, row.counts)

    def _count(self, row: Row) -> Int32:
        """[2, vocab] tokens in the prompt and in the output so far."""
        prompt, output = row.new.num_prompt_tokens, row.num_tokens
        return np.stack(
            [
                np.bincount(self._rows.tokens(row, start, end), minlength=self._num_token_ids)
                for start, end in ((0, prompt), (prompt, output))
            ]
        ).astype(np.int32)

    def _report_prompt(
        self,
        plan: StepPlan,
        rows: list[Row],
        wanted: "_WantedLogits",
        logits: Float32,
        index: int,
        result: StepResult,
    ) -> None:
        """Log-probabilities of the prompt tokens that follow those of this chunk."""
        row, start = rows[index], plan.num_computed_tokens[index]
        end = min(start + plan.num_new_tokens[index], row.new.num_prompt_tokens - 1)
        first = wanted.first_of[index]
        following = self._rows.tokens(row, start + 1, end + 1).tolist()
        k = row.new.output.prompt_logprobs or 0
        result.prompt_logprobs[plan.seq_ids[index]] = self._sampler.logprobs(
            logits[first : first + len(following)], following, [k] * len(following)
        )


class _WantedLogits:
    """Which tokens of a step need logits: the last known token of each row, and every token of
    a prompt whose log-probabilities are wanted."""

    def __init__(self, plan: StepPlan, rows: list[Row]) -> None:
        self.end_rows: list[int] = []
        """Rows that sample a token."""
        self.prompt_rows: list[int] = []
        """Rows that report prompt log-probabilities."""
        self.first_of: dict[int, int] = {}
        self.last_of: dict[int, int] = {}
        """Row -> its first and last line of the logits."""
        indices: list[int] = []
        start = 0
        for index, row in enumerate(rows):
            computed, count = plan.num_computed_tokens[index], plan.num_new_tokens[index]
            at_end = computed + count == row.num_tokens
            in_prompt = computed < row.new.num_prompt_tokens - 1
            if row.new.output.prompt_logprobs is not None and in_prompt:
                self.prompt_rows.append(index)
                self.first_of[index] = len(indices)
                indices.extend(range(start, start + count))
            elif at_end:
                indices.append(start + count - 1)
            if at_end:
                self.end_rows.append(index)
                self.last_of[index] = len(indices) - 1
            start += count
        self.indices = np.array(indices, np.int32)
