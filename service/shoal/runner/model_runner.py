"""Turns plans of one model into tokens: rows, forward pass, sampling, log-probabilities."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from math import isfinite
from pathlib import Path

import numpy as np

from shoal.errors import ModelFolderError
from shoal.model.adapter import AdapterMatrix
from shoal.model.spec import EmbeddingSpec
from shoal.protocol.messages import AdapterLoaded, AdapterSource
from shoal.protocol.params import SamplingParams
from shoal.protocol.step import StepPlan, StepResult
from shoal.runner.batch import Batch
from shoal.runner.inputs import (
    AdaptableBackend,
    Backend,
    BestBackend,
    HeadOutputs,
    HiddenBackend,
    Int32,
    LensBackend,
    StepInputs,
)
from shoal.runner.pooling import pooled
from shoal.runner.rows import Rows
from shoal.runner.verify import say_further
from shoal.sampling.grammars import Grammars
from shoal.sampling.masks import MaskFiller
from shoal.sampling.numpy_sampler import NumpySampler
from shoal.sampling.row_grammar import expected_at_start
from shoal.sampling.sampler import Sampler
from shoal.sampling.trace import trace_token

_MOST_EXPECTED = 8
"""Tokens; no draft is longer."""
ReadAdapter = Callable[[Path], Sequence[AdapterMatrix]]
"""An adapter of this model in a folder. Raises ModelFolderError."""


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
        sampler: Sampler | None = None,
        read_adapter: ReadAdapter | None = None,
        grammars: Grammars | None = None,
        num_threads: int = 1,
        embedding: EmbeddingSpec | None = None,
    ) -> None:
        """`num_token_ids`: ids the tokenizer knows; columns of a padded vocabulary beyond
        them can never be sampled. `max_tokens`: longest sequence. `sampler`: None takes the one
        of numpy. `read_adapter`: for a model that may have adapters. `grammars`: of the model, with
        `num_threads` for their masks. `embedding`: of a model that makes vectors of prompts."""
        self._backend = backend
        self._best_backend = backend if isinstance(backend, BestBackend) else None
        self._num_token_ids = num_token_ids
        self._sampler = sampler or NumpySampler(num_token_ids)
        self._rows = Rows(
            max_rows=max_rows,
            max_tokens=max_tokens,
            block_size=block_size,
            num_token_ids=num_token_ids,
            grammars=grammars,
        )
        self._grammars = grammars
        self._masks = MaskFiller(num_token_ids, num_threads)
        self._embedding = embedding
        self._batch: Batch | None = None  # of the last step, unless it failed
        self._read_adapter = read_adapter

    def run(self, plan: StepPlan) -> StepResult:
        """Computes the plan's rows; see protocol/step.py."""
        batch = self._next_batch(plan)
        if batch.wishes.masked and not plan.continues:  # rows may be new
            self._masks.start(batch.wishes.masked)
        head = self._forward(batch.inputs, batch.num_full_logits)
        if batch.wishes.masked:
            self._masks.join()
        if not (plan.wants_expected or plan.continues):  # too many rows for drafts
            for grammar in batch.wishes.grammars:
                grammar.expect_nothing()
        result = StepResult([])
        self._sample(batch, head, result)
        if batch.prompts:
            self._report_prompts(plan, batch, head, result)
        if batch.pooled:
            self._pool(batch, head, result)
        if plan.wants_expected:
            for i, grammar in zip(batch.wishes.guided, batch.wishes.grammars, strict=True):
                if expected := grammar.expected(_MOST_EXPECTED):
                    result.expected[batch.seq_ids[batch.output_rows[i]]] = expected
        if batch.wishes.masked:  # of the tokens that come next; nobody asks a grammar until then
            self._masks.start(batch.wishes.masked)
        self._batch = batch
        return result

    def prepare_grammar(self, sampling: SamplingParams) -> "Future[str | None]":
        """See `GrammarRunner`."""
        if self._grammars is None:
            unknown: Future[str | None] = Future()
            unknown.set_result("this model has no tokenizer to follow a grammar with")
            return unknown
        assert sampling.grammar is not None, "without a grammar there is nothing to prepare"
        return self._grammars.prepare(sampling.grammar, sampling.copy_text)

    def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
        """See `GrammarRunner`."""
        assert self._grammars is not None, "a grammar is ready"
        return expected_at_start(
            sampling, shares_with, self._num_token_ids, self._grammars, _MOST_EXPECTED
        )

    def forget_answers(self) -> None:
        """See `GrammarRunner`."""
        if self._grammars is not None:
            self._grammars.forget()

    def load_adapter(self, source: AdapterSource) -> AdapterLoaded:
        """Rows may have it from now on. Raises ModelFolderError for one that does not fit."""
        if self._read_adapter is None or not isinstance(self._backend, AdaptableBackend):
            raise ModelFolderError(f"{self._backend.name} computes no adapters")
        matrices = self._read_adapter(Path(source.path))
        self._backend.load_adapter(source.adapter_id, matrices)
        return AdapterLoaded(
            source.adapter_id,
            rank=max(len(matrix.a) for matrix in matrices),
            num_parameters=sum(
                matrix.a.size + sum(part.size for part in matrix.b) for matrix in matrices
            ),
        )

    def unload_adapter(self, adapter_id: int) -> None:
        """Frees one that no row has; unknown ids are ignored."""
        if isinstance(self._backend, AdaptableBackend):
            self._backend.unload_adapter(adapter_id)

    def _next_batch(self, plan: StepPlan) -> Batch:
        last, self._batch = self._batch, None
        if plan.continues:
            assert last is not None, "a failed step is not continued"
            self._rows.extend(plan)
            last.advance(plan)
            return last
        if last is not None:
            last.flush(self._rows)
        self._rows.apply_diff(plan)
        return Batch(plan, self._rows, self._embedding, None if last is None else last.wishes)

    def _forward(self, inputs: StepInputs, num_full_logits: int) -> HeadOutputs:
        if self._best_backend is not None:
            return self._best_backend.forward_best(inputs, num_full_logits)
        lens = hidden = None
        if inputs.hidden_indices is not None and isinstance(self._backend, HiddenBackend):
            logits, hidden = self._backend.forward_hidden(inputs)
        elif inputs.lens_indices is not None and isinstance(self._backend, LensBackend):
            logits, lens = self._backend.forward_lens(inputs)
        else:
            logits = self._backend.forward(inputs)
        known = logits[:, : self._num_token_ids]
        best = known.argmax(axis=1)  # a NaN counts as best
        best_logits = known[np.arange(len(best)), best]
        return HeadOutputs(best.astype(np.int32), best_logits, logits, lens, hidden)

    def _sample(self, batch: Batch, head: HeadOutputs, result: StepResult) -> None:
        wishes = batch.wishes
        token_ids = head.best_ids[batch.logit_rows]
        if wishes.sampled:
            token_ids[batch.sampled_outputs] = self._sampler.sample(
                head.logits[batch.sampled_logit_rows],
                wishes.sampled_states,
                batch.lengths[batch.sampled_indices],
                token_ids[batch.sampled_outputs],
            )
        tokens: list[int | None] = token_ids.tolist()
        # A sum is finite only if every part is: one look at all rows.
        if (wishes.sampled and -1 in tokens) or not isfinite(head.best_logits.sum()):
            is_finite = np.isfinite(head.best_logits[batch.logit_rows])
            for i in np.flatnonzero((token_ids < 0) | ~is_finite).tolist():
                code = "no_token_left" if is_finite[i] else "numerical_error"
                result.errors[batch.seq_ids[batch.output_rows[i]]] = code
                tokens[i] = None
        if wishes.traced:  # before the processors accept what was sampled
            self._trace(batch, head, token_ids, result)
        stopped: list[int] = []
        if wishes.is_tracked:
            said = (
                tokens
                if len(wishes.sampled) == len(tokens)
                else [tokens[i] for i in wishes.sampled]
            )
            stopped = self._sampler.accept(wishes.sampled_states, said)
        if wishes.reported:
            self._report(batch, head, token_ids, result)
        batch.further.clear()
        if wishes.guided:
            self._follow_grammars(batch, head, tokens, stopped, result)
        if batch.drafted:
            self._verify(batch, head, tokens, result)
        batch.store_sampled(token_ids)
        if len(tokens) == len(batch.rows):
            result.token_ids = tokens
            return
        result.token_ids = [None] * len(batch.rows)
        for index, token_id in zip(batch.output_rows, tokens, strict=True):
            result.token_ids[index] = token_id

    def _follow_grammars(
        self,
        batch: Batch,
        head: HeadOutputs,
        tokens: list[int | None],
        stopped: list[int],
        result: StepResult,
    ) -> None:
        """Takes the tokens that must come next. `stopped`: of the rows that are sampled."""
        wishes = batch.wishes
        if None in tokens:
            is_finite = np.isfinite(head.best_logits[batch.logit_rows])
            for i in wishes.guided:
                if tokens[i] is None and is_finite[i]:  # all were banned
                    result.errors[batch.seq_ids[batch.output_rows[i]]] = "grammar_error"
        for n in stopped:
            i, state = wishes.sampled[n], wishes.sampled_states[n]
            grammar, index = state.grammar, batch.output_rows[i]
            if grammar is None or tokens[i] is None:
                continue
            seq_id = batch.seq_ids[index]
            if grammar.failed:
                tokens[i], result.errors[seq_id] = None, "grammar_error"
                continue
            most = self._rows.max_tokens - int(batch.lengths[index]) - 1
            if forced := state.take_forced(most):
                result.further[seq_id] = batch.further[i] = forced
            if grammar.ended:
                result.ended.add(seq_id)

    def _verify(
        self, batch: Batch, head: HeadOutputs, tokens: list[int | None], result: StepResult
    ) -> None:
        """Takes drafts that are right, and what follows them."""
        for i, drafted in batch.drafted.items():
            if (first := tokens[i]) is None:
                continue
            said = [first, *batch.further.get(i, ())]
            say_further(drafted, said, head, self._sampler, self._rows.max_tokens)
            seq_id, grammar = drafted.row.new.seq_id, drafted.row.state.grammar
            if len(said) > 1:
                result.further[seq_id] = batch.further[i] = said[1:]
            if grammar is not None and grammar.ended and not grammar.failed:
                result.ended.add(seq_id)

    def _report(
        self, batch: Batch, head: HeadOutputs, token_ids: Int32, result: StepResult
    ) -> None:
        """Log-probabilities of sampled tokens; none for a row that failed."""
        logits = head.logits[batch.reported_logit_rows]
        chosen = np.maximum(token_ids[batch.wishes.reported], 0).tolist()
        reports = self._sampler.logprobs(logits, chosen, batch.wishes.num_top_logprobs)
        for seq_id, logprobs in zip(batch.wishes.reported_seq_ids, reports, strict=True):
            if seq_id not in result.errors:
                result.logprobs[seq_id] = logprobs

    def _trace(self, batch: Batch, head: HeadOutputs, token_ids: Int32, result: StepResult) -> None:
        """How tokens came about; nothing for a row that failed."""
        logits = head.logits[batch.traced_logit_rows]
        chosen = np.maximum(token_ids[batch.wishes.traced], 0).tolist()
        nums_top = [row.new.output.trace or 0 for row in batch.wishes.traced_rows]
        reports = self._sampler.logprobs(logits, chosen, nums_top)
        positions = batch.lengths[[batch.output_rows[i] for i in batch.wishes.traced]]
        for n, (row, report) in enumerate(zip(batch.wishes.traced_rows, reports, strict=True)):
            if row.new.seq_id not in result.errors:
                result.traces[row.new.seq_id] = trace_token(
                    logits[n],
                    row.state,
                    int(positions[n]),
                    report,
                    num_token_ids=self._num_token_ids,
                    lens=None if head.lens is None else head.lens.of(n),
                )

    def _pool(self, batch: Batch, head: HeadOutputs, result: StepResult) -> None:
        """Embeddings of the prompts that this step has completed."""
        if self._embedding is None or head.hidden is None:
            raise ValueError(f"{self._backend.name} gives no final vectors")
        for row in batch.pooled:
            vector = pooled(self._embedding, head.hidden[row.first : row.first + row.count])
            if np.isfinite(vector).all():
                result.embeddings[row.seq_id] = vector.astype("<f4").tobytes()
            else:
                result.errors[row.seq_id] = "numerical_error"

    def _report_prompts(
        self, plan: StepPlan, batch: Batch, head: HeadOutputs, result: StepResult
    ) -> None:
        """Log-probabilities of the prompt tokens that follow those of these chunks."""
        for prompt in batch.prompts:
            row, index = prompt.row, prompt.index
            end = plan.num_computed_tokens[index] + plan.num_new_tokens[index]
            end = min(end, row.new.num_prompt_tokens - 1)
            following = self._rows.tokens(row, prompt.position + 1, end + 1).tolist()
            num_top = [row.new.output.prompt_logprobs or 0] * len(following)
            logits = head.logits[prompt.first : prompt.first + len(following)]
            reports = self._sampler.logprobs(logits, following, num_top)
            result.prompt_logprobs[row.new.seq_id] = reports
