"""Which tokens a sequence may say next, guessed so that one step computes several of them.

Prompt lookup (Saxena, 2023): where the last tokens of a sequence stood before, in its prompt or its
output, the same tokens may follow again. Under a grammar, what the runner expects (`expecting.py`).
The runner samples each position as if alone and accepts a draft where it is what was sampled, so
drafts change when tokens come, never which. Knows integers only.
"""

from collections.abc import Collection, Mapping
from itertools import islice

from shoal.engine.kv_blocks import KVBlocks
from shoal.engine.limits import Limits
from shoal.engine.sequence import Sequence
from shoal.engine.tenants import TenantShares
from shoal.protocol.step import StepPlan

MAX_STEP_TOKENS = 6
"""Of a step with drafts, but for prompts and forced tokens. A small step waits for the weights: on
two cores 6 tokens of a model of 135M take less than twice as long as one. Beyond, each further
token costs nearly its own time."""
MAX_ROWS = 2
"""Of a step with drafts. More rows share the reading of the weights as they are: what a draft saves
them is no more than what it costs."""
_LENGTHS = (3, 2)
"""Tokens that must have stood before, the longest first."""
_FIRST_DRAFT = 3
"""Tokens of a sequence's first draft."""
_FIRST_PAUSE, _LONGEST_PAUSE = 16, 128
"""Tokens without drafts after some that were wrong."""


class Drafts:
    """Proposes for one scheduler, and records what came of it."""

    def __init__(self, limits: Limits, blocks: KVBlocks, shares: TenantShares) -> None:
        self._limits = limits
        self._blocks = blocks
        self._shares = shares
        self._histories: dict[int, _History] = {}
        self._from_history: set[int] = set()  # sequences whose last draft is from there
        self._expected: Mapping[int, list[int]] = {}
        self._first: dict[int, list[int]] = {}  # of sequences without output

    def are_due(self, seqs: list[Sequence]) -> bool:
        """Would a step that decodes these have drafts?"""
        return bool(self._propose(seqs, len(seqs)))

    def add_to(self, plan: StepPlan, seqs: list[Sequence]) -> None:
        """Drafts behind the known tokens of a plan's rows, which are those of `seqs`, with blocks
        for them. None where a row computes not all that it knows."""
        if not self._limits.drafts or len(seqs) > MAX_ROWS:
            return
        plan.wants_expected = any(map(_is_guided, seqs))
        ends = zip(seqs, plan.num_new_tokens, strict=True)
        if all(seq.num_computed_tokens + count == seq.num_tokens for seq, count in ends):
            plan.drafts = self._propose(seqs, plan.num_tokens)
        for index, seq in enumerate(seqs if plan.drafts else ()):
            if draft := plan.drafts.get(seq.seq_id):
                self._make_room(plan, seq, draft)
                plan.num_new_tokens[index] += len(draft)
        plan.drafts = {seq_id: draft for seq_id, draft in plan.drafts.items() if draft}

    def _make_room(self, plan: StepPlan, seq: Sequence, draft: list[int]) -> None:
        """A block for what does not lie in those of the known tokens, or a shorter draft."""
        num_slots = len(seq.block_ids) * self._blocks.block_size - seq.num_tokens
        if len(draft) <= num_slots:
            return
        if self._blocks.pool.num_available and self._blocks.grow(seq):
            plan.new_block_ids.setdefault(seq.seq_id, []).append(seq.block_ids[-1])
        else:
            del draft[num_slots:]

    def _propose(self, seqs: list[Sequence], num_tokens: int) -> dict[int, list[int]]:
        """For rows of a step that has so many tokens without drafts."""
        if not self._limits.drafts or len(seqs) > MAX_ROWS:
            return {}
        if any(map(_is_guided, seqs)):
            num_base = len(seqs)
        elif any(seq.num_computed_tokens < seq.num_prompt_tokens for seq in seqs):
            return {}
        else:
            num_base = num_tokens
        spare = min(MAX_STEP_TOKENS - num_base, self._limits.token_budget - num_tokens)
        if spare <= 0:
            return {}
        found = {seq.seq_id: draft for seq in seqs if (draft := self._draft(seq, spare))}
        share = spare // max(1, len(found))
        return {seq_id: draft[:share] for seq_id, draft in found.items()} if share else {}

    def _draft(self, seq: Sequence, most: int) -> list[int]:
        """It leaves room for the token behind it."""
        output = seq.submit.output
        if output.logprobs is not None or output.trace is not None:
            return []
        most = min(most, seq.max_num_tokens - 1 - seq.num_tokens)
        block_size = self._blocks.block_size
        num_slots = -seq.num_tokens % block_size  # in the block of the last known token
        if not _is_guided(seq):
            return self._looked_up(seq, min(most, num_slots))
        num_slots = max(num_slots, len(seq.block_ids) * block_size - seq.num_tokens)
        if most > num_slots and self._blocks.may_grow(seq) and self._blocks.pool.num_available:
            num_slots += block_size
        most = min(most, num_slots)
        self._from_history.discard(seq.seq_id)
        found = (self._expected if seq.num_output_tokens else self._first).get(seq.seq_id, [])
        return found[: max(most, 0)] or self._looked_up(seq, most)

    def _looked_up(self, seq: Sequence, most: int) -> list[int]:
        """From the sequence itself, behind its prompt."""
        may_look = self._limits.lookup_drafts or _is_guided(seq)
        if not may_look or most <= 0 or seq.num_computed_tokens < seq.num_prompt_tokens:
            return []
        if (history := self._histories.get(seq.seq_id)) is None:
            history = self._histories[seq.seq_id] = _History()
        if draft := history.propose(seq.token_ids, most):
            self._from_history.add(seq.seq_id)
        return draft

    def expect_first(self, seq: Sequence, expected: Collection[int]) -> None:
        """What the grammar of a new sequence expects."""
        if expected:
            self._first[seq.seq_id] = [*expected]

    def expect(self, expected: Mapping[int, list[int]]) -> None:
        """What the grammars of the last step's rows expect behind all tokens of theirs."""
        self._expected = expected

    def record(self, seq: Sequence, draft: list[int]) -> int:
        """Of a row whose known tokens were computed with this draft behind them, and that got its
        new tokens: how many of these are computed. Their tenant is charged for them, and they may
        fill blocks. The last token is left for the next step."""
        said = islice(seq.token_ids, seq.num_computed_tokens, seq.num_tokens - 1)
        num_accepted = 0
        for drafted, token_id in zip(draft, said, strict=False):
            if drafted != token_id:
                break
            num_accepted += 1
        if seq.seq_id in self._from_history:
            self._histories[seq.seq_id].learn(seq.num_tokens, len(draft), num_accepted)
        if num_accepted:
            self._shares.charge_prefill(seq, num_accepted)
            seq.num_computed_tokens += num_accepted
            self._blocks.cache_full_blocks(seq)
        return num_accepted

    def finish(self, seq: Sequence) -> None:
        """The sequence is over."""
        self._histories.pop(seq.seq_id, None)
        self._first.pop(seq.seq_id, None)
        self._from_history.discard(seq.seq_id)


def _is_guided(seq: Sequence) -> bool:
    return seq.submit.sampling.grammar is not None


class _History:
    """Where in a sequence short runs of tokens stood last, and how its drafts fared."""

    __slots__ = ("_length", "_num_indexed", "_pause", "_places", "_resume_at")

    def __init__(self) -> None:
        self._places: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in _LENGTHS}
        """Run -> place of the token behind it, by the run's length."""
        self._num_indexed = 0
        self._length = _FIRST_DRAFT
        self._pause = _FIRST_PAUSE
        self._resume_at = 0

    def propose(self, token_ids: list[int], most: int) -> list[int]:
        """What followed the last tokens when they stood there before. A text that repeats itself
        is drafted as going on to do so."""
        num_tokens = len(token_ids)
        if num_tokens < self._resume_at:
            return []
        self._index(token_ids)
        for length, places in self._places.items():
            place = places.get(tuple(token_ids[-length:]))
            if place is not None:
                most = min(most, self._length)
                draft = token_ids[place : place + most]
                while len(draft) < most:
                    draft += draft[: most - len(draft)]
                return draft
        return []

    def learn(self, num_tokens: int, num_drafted: int, num_accepted: int) -> None:
        """`num_tokens`: of the sequence now."""
        if num_accepted == num_drafted:
            self._length = min(2 * self._length + 1, MAX_STEP_TOKENS - 1)
        elif num_accepted:
            self._length = num_accepted + 1
        else:
            self._length //= 2
        if num_accepted:
            self._pause = _FIRST_PAUSE
        elif not self._length:
            self._length = 1
            self._resume_at = num_tokens + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _index(self, token_ids: list[int]) -> None:
        """Runs that end before the last token."""
        end = len(token_ids) - 1
        for length, places in self._places.items():
            first = max(self._num_indexed, length - 1)  # the first last token of a run
            recent = token_ids[first - length + 1 : end]
            runs = zip(*(recent[start:] for start in range(length)), strict=False)
            places.update(zip(runs, range(first + 1, end + 1), strict=False))
        self._num_indexed = end
