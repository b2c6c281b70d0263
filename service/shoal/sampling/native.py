"""The sampler of the native library, for logits of the native backend. Processors change a copy of
the logits; allow-masks are applied by the library."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.kernels.sampling import Checks, PlainTokens, RowParams, VocabularyMasks
from shoal.kernels.sampling import NativeSampler as Kernel
from shoal.protocol.messages import TokenLogprobs
from shoal.sampling.arrays import Float32, Int32, UInt32
from shoal.sampling.free_rows import FreeRows
from shoal.sampling.random import MASK_64
from shoal.sampling.sampler import SamplingState, seed_of_draw


class NativeSampler:
    """A row's parameters live in arrays as long as the batch."""

    def __init__(self, num_token_ids: int, *, vocab_size: int | None = None) -> None:
        """`vocab_size`: columns of the logits; None: as many as token ids. Raises RuntimeError
        where the library is not built."""
        self._num_token_ids = num_token_ids
        self._kernel = Kernel(vocab_size or num_token_ids, num_token_ids=num_token_ids)
        self._states: list[SamplingState] = []
        self._row_of: dict[SamplingState, int] = {}
        self._free = FreeRows(0, [])
        self._known: dict[int, UInt32] = {}
        self._num_free = 0
        self._looked_at: list[int] = []
        self._stopped: list[int] = []

    def sample(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        positions: Int32,
        best_ids: Int32 | None = None,
    ) -> Int32:
        if (given := [*states]) != self._states:  # by identity
            self._take(given)
        for row in self._stopped:
            self._look_up(row)
        self._params.position[:] = positions
        if self._changing:
            logits = logits.copy()
            for row, state in self._changing:
                state.apply(logits[row, : self._num_token_ids])
        masks, checks = self._masks(len(states)), self._checks_now()
        if best_ids is None or self._first is None:
            tokens = self._kernel.sample(logits, self._params, masks, checks=checks)
        else:
            tokens = best_ids.copy()
            if len(self._first):
                self._kernel.sample(
                    logits, self._params, masks, checks=checks, rows=self._first, tokens=tokens
                )
        self._looked_at = self._free.to_look_at(tokens)
        refused = [row for row in self._looked_at if not self._admits(row, tokens)]
        if refused:
            self._draw_again(logits, states, refused, tokens)
        self._tokens = tokens
        return tokens

    def _admits(self, row: int, tokens: Int32) -> bool:
        """Does the row's grammar, if it has one, admit its token, or the other one that was drawn
        in its place?"""
        asked = self._states[row].asked
        if asked is None or row in self._known or asked.admits(tokens.item(row)):
            return True
        if self._table_of_row[row] < 0:
            return False
        tokens[row] = other = self._others.item(row)
        asked.keep_mask()
        return asked.admits(other)

    def accept(self, states: Sequence[SamplingState], tokens: Sequence[int | None]) -> list[int]:
        for row in self._looked_at:
            if (token_id := tokens[row]) is not None:
                states[row].accept(token_id)
        if self._free.num_left:
            self._free.remember(self._tokens)
        self._stopped = []
        for row in self._looked_at:
            if states[row].goes_on:
                self._look_up(row)
            else:
                self._stopped.append(row)
        return self._stopped

    def _take(self, states: list[SamplingState]) -> None:
        """What stays the same while they do."""
        rows = [self._row_of.get(state, -1) for state in states]
        if -1 in rows:
            self._params = self._make_params(states)
        else:  # in another order, or fewer
            self._params = self._params.of_rows(np.array(rows, np.int64))
        self._row_of = {state: row for row, state in enumerate(states)}
        params = self._params
        self._changing = [(row, s) for row, s in enumerate(states) if s.changes_logits]
        self._masked = [(row, s) for row, s in enumerate(states) if s.first_processors]
        processed = [row for row, state in enumerate(states) if state.processors]
        self._stopped = processed
        self._free.release()
        self._free = FreeRows(len(states), processed)
        self._known = {}
        self._num_free = 0
        if any(state.asked is not None for state in states):
            self._make_checks([state.params.seed for state in states])
        drawn = [row for row, state in enumerate(states) if not state.takes_best_first]
        self._first = np.array(drawn, np.int32) if len(drawn) < len(states) else None
        self._states = states

    def _make_checks(self, seeds: list[int]) -> None:
        num_rows = len(seeds)
        self._second, self._third = (
            np.array([seed_of_draw(seed, num_refused) for seed in seeds], np.uint64)
            for num_refused in (1, 2)
        )
        self._again = replace(self._params, seed=self._second.copy())
        self._words = np.empty((num_rows, -(-self._num_token_ids // 32)), np.uint32)
        self._mask_of_row = np.full(num_rows, -1, np.int32)
        self._all_rows = np.arange(num_rows, dtype=np.int32)
        self._table_of_row = np.full(num_rows, -1, np.int32)
        self._others = np.full(num_rows, -1, np.int32)
        self._num_free = 0

    def _checks_now(self) -> Checks | None:
        if not (self._known or self._num_free):
            return None
        masks = VocabularyMasks(self._words, self._mask_of_row) if self._known else None
        plain = None
        if self._num_free:
            plain = PlainTokens(self._free.num_chars, self._table_of_row, self._others)
        return Checks(masks, plain, self._second, self._third)

    def _look_up(self, row: int) -> None:
        """What is known of the token that comes next."""
        state = self._states[row]
        if (grammar := state.asked) is None:
            return
        mask = grammar.known_mask if state.is_checked else None
        if mask is None:
            if self._known.pop(row, None) is not None:
                self._mask_of_row[row] = -1
        elif mask is not self._known.get(row):
            self._words[row] = self._known[row] = mask
            self._mask_of_row[row] = row
        was_free = self._table_of_row[row] >= 0
        is_free = grammar.is_free and not state.params.greedy
        if is_free != was_free:
            self._table_of_row[row] = self._free.table(grammar.num_chars) if is_free else -1
            self._num_free += 1 if is_free else -1
        if state.may_be_left and grammar.may_be_left:
            self._free.leave(row, grammar)

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
                self._words[row] = mask
        rows = np.array(refused, np.int32)
        self._again.seed[rows] = np.where(
            self._table_of_row[rows] >= 0, self._third[rows], self._second[rows]
        )
        masks = VocabularyMasks(self._words, self._all_rows)
        self._kernel.sample(logits, self._again, masks, rows=rows, tokens=tokens)

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
