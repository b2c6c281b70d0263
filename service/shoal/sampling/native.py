"""The sampler of the native library, for logits of the native backend. Processors change a copy of
the logits; allow-masks are applied by the library."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.kernels.sampling import NativeSampler as Kernel
from shoal.kernels.sampling import Checks, RowParams, VocabularyMasks
from shoal.protocol.messages import TokenLogprobs
from shoal.sampling.arrays import Float32, Int32, UInt32
from shoal.sampling.processors.grammar import Grammar
from shoal.sampling.random import MASK_64
from shoal.sampling.sampler import SECOND_DRAW, SamplingState


class NativeSampler:
    """A row's parameters live in arrays as long as the batch."""

    def __init__(self, num_token_ids: int, *, vocab_size: int | None = None) -> None:
        """`vocab_size`: columns of the logits; None: as many as token ids. Raises RuntimeError
        where the library is not built."""
        self._num_token_ids = num_token_ids
        self._kernel = Kernel(vocab_size or num_token_ids, num_token_ids=num_token_ids)
        self._states: list[SamplingState] = []
        self._row_of: dict[SamplingState, int] = {}

    def sample(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        positions: Int32,
        best_ids: Int32 | None = None,
    ) -> Int32:
        if (given := [*states]) != self._states:  # by identity
            self._take(given)
        self._params.position[:] = positions
        if self._changing:
            logits = logits.copy()
            for row, state in self._changing:
                state.apply(logits[row, : self._num_token_ids])
        masks, (checks, asked) = self._masks(len(states)), self._known()
        if best_ids is None or self._first is None:
            tokens = self._kernel.sample(logits, self._params, masks, checks=checks)
        else:
            tokens = best_ids.copy()
            if len(self._first):
                self._kernel.sample(
                    logits, self._params, masks, checks=checks, rows=self._first, tokens=tokens
                )
        if asked:
            drawn = tokens.tolist()
            refused = [row for row, grammar in asked if not grammar.admits(drawn[row])]
            if refused:
                self._draw_again(logits, states, refused, tokens)
        return tokens

    def _take(self, states: list[SamplingState]) -> None:
        """What stays the same while they do."""
        rows = [self._row_of.get(state, -1) for state in states]
        if -1 in rows:
            self._params = self._make_params(states)
        else:  # in another order, or fewer
            self._params = self._params.of_rows(np.array(rows, np.int64))
        self._row_of = {state: row for row, state in enumerate(states)}
        params = self._params
        self._again = replace(params, seed=params.seed ^ np.uint64(SECOND_DRAW))
        self._changing = [(row, s) for row, s in enumerate(states) if s.changes_logits]
        self._masked = [(row, s) for row, s in enumerate(states) if s.first_processors]
        asked = [(row, s, s.asked) for row, s in enumerate(states) if s.asked is not None]
        self._asked = [(row, grammar) for row, s, grammar in asked if not s.is_checked]
        self._checked = [(row, grammar) for row, s, grammar in asked if s.is_checked]
        drawn = [row for row, state in enumerate(states) if not state.takes_best_first]
        if asked:
            words = np.empty((len(states), -(-self._num_token_ids // 32)), np.uint32)
            self._masks_again = VocabularyMasks(words, np.arange(len(states), dtype=np.int32))
        if self._checked:
            unknown = VocabularyMasks(words, np.full(len(states), -1, np.int32))
            self._checks = Checks(unknown, self._again.seed)
            self._written: list[UInt32 | None] = [None] * len(states)
        self._first = np.array(drawn, np.int32) if len(drawn) < len(states) else None
        self._states = states

    def _draw_again(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        refused: Sequence[int],
        tokens: Int32,
    ) -> None:
        """Changes the tokens of these rows."""
        for row in refused:
            if (mask := states[row].allow_mask()) is not None:
                self._masks_again.words[row] = mask
                if states[row].is_checked:
                    self._written[row] = mask
        rows = np.array(refused, np.int32)
        self._kernel.sample(logits, self._again, self._masks_again, rows=rows, tokens=tokens)

    def logprobs(
        self, logits: Float32, token_ids: Sequence[int], nums_top: Sequence[int]
    ) -> list[TokenLogprobs]:
        own, top_ids, top = self._kernel.logprobs(
            logits, np.array(token_ids, np.int32), np.array(nums_top, np.int32)
        )
        counts = (top_ids >= 0).sum(axis=1).tolist()
        return [
            TokenLogprobs(token_id, logprob, ids[:count], logprobs[:count])
            for token_id, logprob, ids, logprobs, count in zip(
                token_ids, own.tolist(), top_ids.tolist(), top.tolist(), counts, strict=True
            )
        ]

    def _known(self) -> tuple[Checks | None, list[tuple[int, Grammar]]]:
        """What grammars are known to allow, and the rows whose grammars are to be asked."""
        if not self._checked:
            return None, self._asked
        asked, masks, written = [*self._asked], self._checks.masks, self._written
        for row, grammar in self._checked:
            mask = grammar.known_mask
            if mask is None:
                asked.append((row, grammar))
                masks.mask_of_row[row] = -1
            elif mask is not written[row]:
                masks.words[row] = written[row] = mask
                masks.mask_of_row[row] = row
            else:
                masks.mask_of_row[row] = row
        return self._checks if len(asked) < len(self._asked) + len(self._checked) else None, asked

    def _masks(self, num_rows: int) -> VocabularyMasks | None:
        """Of the first draw."""
        masks = {
            row: mask
            for row, state in self._masked
            if (mask := state.allow_mask(again=False)) is not None
        }
        if not masks:
            return None
        mask_of_row = np.full(num_rows, -1, np.int32)
        mask_of_row[list(masks)] = range(len(masks))
        return VocabularyMasks(np.stack(list(masks.values())), mask_of_row)

    def _make_params(self, states: Sequence[SamplingState]) -> RowParams:
        params = [state.params for state in states]
        most = self._num_token_ids
        return RowParams(
            temperature=np.array([wanted.temperature for wanted in params], np.float32),
            top_k=np.array([min(wanted.top_k, most) for wanted in params], np.int32),
            top_p=np.array([wanted.top_p for wanted in params], np.float64),
            min_p=np.array([wanted.min_p for wanted in params], np.float64),
            typical_p=np.array([wanted.typical_p for wanted in params], np.float64),
            seed=np.array([wanted.seed & MASK_64 for wanted in params], np.uint64),
            position=np.zeros(len(params), np.uint64),
        )
