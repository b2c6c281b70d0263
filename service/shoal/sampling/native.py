"""The sampler of the native library, for logits of the native backend. Processors change a copy of
the logits; allow-masks are applied by the library."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from shoal.kernels.sampling import Checks, RowParams, VocabularyMasks
from shoal.kernels.sampling import NativeSampler as Kernel
from shoal.protocol.messages import TokenLogprobs
from shoal.sampling.arrays import Float32, Int32, UInt32
from shoal.sampling.free_rows import FreeRows
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
        self._free = FreeRows(0, [])
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
        masks, checks = self._masks(len(states)), self._checks if self._known else None
        if best_ids is None or self._first is None:
            tokens = self._kernel.sample(logits, self._params, masks, checks=checks)
        else:
            tokens = best_ids.copy()
            if len(self._first):
                self._kernel.sample(
                    logits, self._params, masks, checks=checks, rows=self._first, tokens=tokens
                )
        self._looked_at = self._free.to_look_at(tokens)
        refused = [
            row
            for row in self._looked_at
            if (asked := states[row].asked) is not None
            and row not in self._known
            and not asked.admits(tokens.item(row))
        ]
        if refused:
            self._draw_again(logits, states, refused, tokens)
        self._tokens = tokens
        return tokens

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
        self._again = replace(params, seed=params.seed ^ np.uint64(SECOND_DRAW))
        self._changing = [(row, s) for row, s in enumerate(states) if s.changes_logits]
        self._masked = [(row, s) for row, s in enumerate(states) if s.first_processors]
        processed = [row for row, state in enumerate(states) if state.processors]
        self._stopped = processed
        self._free.release()
        self._free = FreeRows(len(states), processed)
        self._known: dict[int, UInt32] = {}
        if any(state.asked is not None for state in states):
            words = np.empty((len(states), -(-self._num_token_ids // 32)), np.uint32)
            self._masks_again = VocabularyMasks(words, np.arange(len(states), dtype=np.int32))
            unknown = VocabularyMasks(words, np.full(len(states), -1, np.int32))
            self._checks = Checks(unknown, self._again.seed)
        drawn = [row for row, state in enumerate(states) if not state.takes_best_first]
        self._first = np.array(drawn, np.int32) if len(drawn) < len(states) else None
        self._states = states

    def _look_up(self, row: int) -> None:
        """What is known of the token that comes next."""
        state = self._states[row]
        if (grammar := state.asked) is None:
            return
        mask = grammar.known_mask if state.is_checked else None
        if mask is None:
            if self._known.pop(row, None) is not None:
                self._checks.masks.mask_of_row[row] = -1
        elif mask is not self._known.get(row):
            masks = self._checks.masks
            masks.words[row] = self._known[row] = mask
            masks.mask_of_row[row] = row
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
                self._masks_again.words[row] = mask
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
