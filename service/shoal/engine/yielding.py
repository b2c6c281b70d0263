"""Which sequences make way, so that one tenant cannot fill the batch while others wait, nor make
their first tokens late.

A row that yields is computed again later, mostly from the prefix cache. Bounded: a row changes
hands only towards equal rows, and a sequence yields a few times in its life at most.
"""

from collections import Counter

from shoal.engine.kv_blocks import KVBlocks
from shoal.engine.limits import Limits
from shoal.engine.sequence import Sequence
from shoal.engine.waiting import WaitingQueue

MAX_YIELDS = 4
"""Times one sequence may make way."""
MAX_RESTS = 3
"""Steps in a row that may leave out the rows of a heavy tenant."""


class Yielding:
    """Decides for one scheduler; changes nothing itself."""

    def __init__(self, limits: Limits, waiting: WaitingQueue) -> None:
        self._limits = limits
        self._waiting = waiting
        self._shares = waiting.shares
        self.num_yields = 0
        self.lacks_blocks = False
        """The next in order found no blocks in the last plan."""
        # Of a plan, the last one or the one in work:
        self._at_rest: set[str] = set()  # tenants of which it computes nothing
        self._num_tokens: dict[str, int] = {}  # prompt tokens that each heavy tenant has left
        self._seen: Counter[str] = Counter()  # rows of each
        self._num_rests = 0  # plans in a row with such
        self._turn = 0
        self._max_rows = max(1, limits.max_rows // 8)
        self._min_open = self._max_rows + 1  # of a heavy tenant: it has more than it may take
        self._max_tokens = max(1, limits.token_budget // 8)

    def interferes(self, running: list[Sequence], now: float) -> bool:
        """Would a row make way or sit out in a plan made now?"""
        if self._shares.heavy_ones(self._min_open, now):
            return True
        if not len(self._waiting):
            return False
        return self._row_for(self._waiting.peek(now), running, []) is not None

    def rows_to_yield(self, running: list[Sequence], now: float) -> list[Sequence]:
        """The running sequences to put back, where rows or blocks are short, for as many of those
        that wait as the next step could start."""
        waiting, shares = self._waiting, self._shares
        if not len(waiting):
            self.lacks_blocks = False
            return []
        num_free = 0 if self.lacks_blocks else self._limits.max_rows - len(running)
        budget = 1 if self.lacks_blocks else self._limits.token_budget - len(running)
        self.lacks_blocks = False
        starting: list[Sequence] = []
        yielded: list[Sequence] = []
        while budget > 0 and len(waiting) + len(starting) > num_free and len(waiting):
            seq = waiting.pop(now)
            if len(starting) >= num_free:
                row = self._row_for(seq, running, yielded)
                if row is None:
                    waiting.put_back(seq)
                    break
                shares.leave_row(row)
                yielded.append(row)
            shares.enter_row(seq)
            starting.append(seq)
            budget -= seq.num_tokens
        # So far it was only counted: the scheduler does it.
        for seq in reversed(starting):
            shares.leave_row(seq)
            waiting.put_back(seq)
        for row in yielded:
            shares.enter_row(row)
            row.num_yields += 1
            row.waiting_since_s = now
        self.num_yields += len(yielded)
        return yielded

    def _row_for(
        self, seq: Sequence, running: list[Sequence], yielded: list[Sequence]
    ) -> Sequence | None:
        """The newest row of the heaviest tenant, for a waiting sequence of a lighter one; None
        where nobody has to make way for it."""
        tenant = self._shares.heaviest(seq)
        if tenant is None:
            return None
        for row in reversed(running):
            if (
                row.submit.tenant == tenant
                and row.submit.priority >= seq.submit.priority
                and row.num_yields < MAX_YIELDS
                and row not in yielded
            ):
                return row
        return None

    def row_for_blocks(self, running: list[Sequence], blocks: KVBlocks) -> Sequence | None:
        """The row that is put back because the others need its blocks in the next step: the newest
        of the tenant with the most rows for its weight, never the oldest of all. None where there
        are blocks enough, or one tenant only: then it is the newest that finds no block."""
        if self._shares.num_with_rows < 2:
            return None
        num_available = blocks.pool.num_available
        if num_available >= len(running) or num_available >= blocks.num_missing(running):
            return None
        newest: dict[str, Sequence] = {}
        for row in reversed(running[1:]):
            newest.setdefault(row.submit.tenant, row)
        return max(newest.values(), key=self._shares.rows_for_weight, default=None)

    # --- short steps ---------------------------------------------------------------------------

    def limit(self, running: list[Sequence], now: float) -> None:
        """Before a plan: while lighter tenants are there, each much heavier one gets an eighth of a
        step, its rows in turn; nothing of a step that computes prompts of lighter ones, but not
        for long."""
        self._num_rests = self._num_rests + 1 if self._at_rest else 0
        self._at_rest = set()
        self._seen.clear()
        if self._shares.has_one_tenant(now):
            self._num_tokens = {}
            return
        starting = [seq for seq in running if seq.num_tokens - seq.num_computed_tokens > 1]
        if len(self._waiting) and len(running) < self._limits.max_rows:
            starting.append(self._waiting.peek(now))
        if self._num_rests < MAX_RESTS:
            self._at_rest = {
                name for seq in starting for name in self._shares.much_heavier(seq, self._min_open)
            }
        self._num_tokens = dict.fromkeys(
            self._shares.heavy_ones(self._min_open, now), self._max_tokens
        )
        if self._num_tokens and not self._at_rest:
            self._turn += self._max_rows
        self._num_tokens.update(dict.fromkeys(self._at_rest, 0))

    def lift(self) -> bool:
        """Limits nobody in this plan after all; False if there were no limits."""
        was_limited = bool(self._num_tokens)
        self._at_rest, self._num_tokens = set(), {}
        return was_limited

    def sits_out(self, seq: Sequence) -> bool:
        """Does a row do nothing in this plan? To be asked once for every row, in order."""
        tenant = seq.submit.tenant
        if tenant not in self._num_tokens:
            return False
        index = self._seen[tenant]
        self._seen[tenant] += 1
        num_rows = self._shares.num_rows(tenant)
        max_rows = 0 if tenant in self._at_rest else self._max_rows
        return (index - self._turn) % num_rows >= max_rows

    def prompt_tokens(self, seq: Sequence, wanted: int) -> int:
        """How many of these prompt tokens a plan computes. A prompt that is not divided may take
        more than its tenant has left, but not if that is nothing."""
        tenant = seq.submit.tenant
        if tenant in self._num_tokens:
            left = self._num_tokens[tenant]
            if not self._limits.whole_prompts or left == 0:
                wanted = min(wanted, left)
            self._num_tokens[tenant] = max(0, left - wanted)
        return wanted

    def may_start(self, seq: Sequence, num_running: int, now: float) -> bool:
        """May a waiting sequence, the next in order, have one of the free rows?"""
        if self._num_tokens.get(seq.submit.tenant) == 0:
            return False
        if seq.goes_first:
            return num_running < self._limits.max_rows
        num_reserved = self._shares.num_reserved(seq, self._limits.max_rows, now)
        return num_running + num_reserved < self._limits.max_rows
