"""The sampler of the native library, for logits of the native backend. Processors change a copy of
the logits; allow-masks are applied by the library."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from shoal.kernels.sampling import Checks, PlainTokens, RowArrays, RowParams, VocabularyMasks
from shoal.kernels.sampling import NativeSampler as Kernel
from shoal.protocol.messages import TokenLogprobs
from shoal.sampling.arrays import Float32, Int32, UInt32
from shoal.sampling.left_rows import LeftRows
from shoal.sampling.mask_table import CHECKED, FIRST
from shoal.sampling.processors.grammar import Grammar
from shoal.sampling.random import MASK_64
from shoal.sampling.sampler import NUM_OTHERS, SamplingState, seed_of_draw

_DRAWS = np.array([seed_of_draw(0, draw) for draw in range(1, 2 + NUM_OTHERS)], np.uint64)
"""A seed with one of them is that of another draw."""


class NativeSampler:
    """A row's parameters live in arrays as long as the batch."""

    def __init__(self, num_token_ids: int, *, vocab_size: int | None = None) -> None:
        """`vocab_size`: columns of the logits; None: as many as token ids. Raises RuntimeError
        where the library is not built."""
        self._num_token_ids = num_token_ids
        self._kernel = Kernel(vocab_size or num_token_ids, num_token_ids=num_token_ids)
        self._states: list[SamplingState] = []
        self._row_of: dict[SamplingState, int] = {}
        self._left = LeftRows(num_token_ids)
        self._arrays: RowArrays | None = None
        self._num_chars = self._left.num_chars
        self._stopped: list[int] = []
        self._unmasked: list[int] = []

    def sample(
        self,
        logits: Float32,
        states: Sequence[SamplingState],
        positions: Int32,
        best_ids: Int32 | None = None,
    ) -> Int32:
        if (given := [*states]) != self._states:  # by identity
            self._take(given)
        for row in self._stopped:  # what was forced has been taken
            self._look_up(row)
        self._stopped = []
        self._params.position[:] = positions
        if self._changing:
            logits = logits.copy()
            for row, state in self._changing:
                state.apply(logits[row, : self._num_token_ids])
        for row in self._unmasked:
            self._find_mask(row)
        self._unmasked = []
        for row, state in self._masked:
            self._left.masks.set_own(FIRST, row, state.allow_mask(again=False))
        first = None
        if best_ids is not None and len(self._drawn) < len(states):
            first = best_ids.copy()
            if len(self._drawn):
                first[self._drawn] = -1
        if first is not None and not (self._asks or len(self._drawn)):
            tokens = first
        else:
            tokens = self._kernel.sample(logits, self._arrays_now(), first=first, tokens=first)
        looked_at = self._left.to_look_at(tokens)
        is_checked = self._left.masks.of_row[CHECKED]
        refused = [
            row for row in looked_at if is_checked.item(row) < 0 and not self._admits(row, tokens)
        ]
        if refused:
            self._draw_again(logits, states, refused, tokens)
        self._tokens = tokens
        return tokens

    def _admits(self, row: int, tokens: Int32) -> bool:
        """Does the row's grammar, if it has one, admit its token, or the other one that was drawn
        in its place?"""
        if (asked := self._states[row].asked) is None:
            return True
        if self._is_admitted(row, asked, tokens.item(row)):
            return True
        if self._left.table_of_row[row] < 0:
            return False
        for other in self._others[row].tolist():
            tokens[row] = other
            if self._is_admitted(row, asked, other):
                return True
        return False

    def _is_admitted(self, row: int, grammar: Grammar, token_id: int) -> bool:
        if token_id < 0:
            return True
        if (is_admitted := self._left.admits(row, token_id)) is None:
            is_admitted = grammar.admits(token_id)
        if not is_admitted and not self._left.is_waiting(row):
            grammar.keep_mask()
        return is_admitted

    def accept(self, states: Sequence[SamplingState], tokens: Sequence[int | None]) -> list[int]:
        told: list[int] = []
        for row in self._left.advance(self._tokens):
            if (token_id := tokens[row]) is None:
                continue
            if (left := self._left.follow(row, token_id)) is not None:
                self._set_known(row, left.mask, left.is_free)
            else:
                states[row].accept(token_id)
                told.append(row)
        self._left.remember(self._tokens)
        self._stopped = []
        for row in told:
            if states[row].goes_on:
                self._look_up(row)
            else:
                self._stopped.append(row)
        return self._stopped

    def told(self, state: SamplingState) -> None:
        if (row := self._row_of.get(state)) is not None:
            self._stopped = [*self._stopped, row]

    def _take(self, states: list[SamplingState]) -> None:
        """What stays the same while they do."""
        before = [self._row_of.get(state, -1) for state in states]
        self._row_of, self._states = {}, []  # as long as it may fail
        self._take_params(states, before)
        self._changing = [(row, s) for row, s in enumerate(states) if s.changes_logits]
        masked = [(row, s) for row, s in enumerate(states) if s.first_processors]
        self._masked = [(row, s) for row, s in masked if not s.is_masked]
        self._masks_first = bool(masked)
        self._asks = any(state.asked is not None for state in states)
        self._unmasked = []
        processed = [row for row, state in enumerate(states) if state.processors]
        self._left.begin(before, processed)
        for row in processed:
            if before[row] < 0:
                self._look_at(row, states[row])
        self._stopped = [row for row in processed if not self._left.is_left(row)]
        self._arrays = None
        if self._asks:
            self._make_checks()
        drawn = [row for row, state in enumerate(states) if not state.takes_best_first]
        self._drawn = np.array(drawn, np.int32)
        self._row_of = {state: row for row, state in enumerate(states)}
        self._states = states

    def _look_at(self, row: int, state: SamplingState) -> None:
        if state.grammar is not None:
            state.grammar.catch_up()  # it may have been here before
        column = FIRST if state.is_masked else CHECKED if state.is_checked else -1
        has_others = state.asked is not None and not state.params.greedy
        needs_mask = state.grammar is not None and state.grammar.masks_first
        self._left.look_at(row, column, has_others=has_others, needs_mask=needs_mask)

    def _make_checks(self) -> None:
        num_rows = len(self._params.seed)
        self._seeds = self._params.seed[:, None] ^ _DRAWS
        self._words = np.empty((num_rows, -(-self._num_token_ids // 32)), np.uint32)
        masks = VocabularyMasks(self._words, np.arange(num_rows, dtype=np.int32))
        self._again = RowArrays(replace(self._params, seed=self._seeds[:, 0].copy()), masks)
        self._others = np.full((num_rows, NUM_OTHERS), -1, np.int32)

    def _arrays_now(self) -> RowArrays:
        """As the kernel reads them: others once there is a further table."""
        left = self._left
        if self._arrays is None or self._num_chars is not left.num_chars:
            self._num_chars = left.num_chars
            masks = left.masks.column(FIRST) if self._masks_first else None
            checks = None
            if self._asks:
                plain = PlainTokens(left.num_chars, left.table_of_row, self._others)
                checks = Checks(left.masks.column(CHECKED), plain, self._seeds)
            self._arrays = RowArrays(self._params, masks, checks)
        return self._arrays

    def _look_up(self, row: int) -> None:
        """What is known of the token that comes next."""
        state = self._states[row]
        if (grammar := state.grammar) is None:
            return
        if state.is_checked:
            grammar.expect_refusal()
        self._set_known(row, grammar.known_mask, grammar.is_free)
        if state.may_be_left and grammar.may_be_left:
            self._left.leave(row, grammar)

    def _set_known(self, row: int, mask: UInt32 | None, is_free: bool) -> None:
        """`mask`: of the next token. `is_free`: does it come in free text?"""
        state = self._states[row]
        if state.asked is None:
            if state.is_masked:
                self._set_mask(row, mask)
            return
        if state.is_checked:
            self._left.masks.set(CHECKED, row, mask)
        has_others = is_free and not state.params.greedy
        table = self._left.table(state.asked.num_chars) if has_others else -1
        self._left.table_of_row[row] = table

    def _set_mask(self, row: int, mask: UInt32 | None) -> None:
        """Of the row's first draw; None: it is to be found."""
        if mask is None:
            if (grammar := self._states[row].grammar) is not None:
                grammar.catch_up()  # others may be asked beside the step
            self._unmasked.append(row)
        else:
            self._left.masks.set(FIRST, row, mask)

    def _find_mask(self, row: int) -> None:
        state = self._states[row]
        assert state.grammar is not None, "others have none to find"
        self._set_mask(row, state.grammar.allow_mask)
        self._look_up(row)

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
        draws = np.where(self._left.table_of_row[rows] >= 0, NUM_OTHERS, 0)
        self._again.params.seed[rows] = self._seeds[rows, draws]
        self._kernel.sample(logits, self._again, rows=rows, tokens=tokens)

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

    def _take_params(self, states: list[SamplingState], before: list[int]) -> None:
        new = [row for row, old in enumerate(before) if old < 0]
        made = self._make_params([states[row] for row in new])
        if len(new) == len(states):
            self._params = made
            return
        self._params = self._params.of_rows(np.array(before, np.int64))
        for field in fields(made) if new else ():
            getattr(self._params, field.name)[new] = getattr(made, field.name)

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
