"""What each tenant was served, and who makes way for whom.

Tenant fairness after Sheng et al. 2024, "Fairness in Serving Large Language Models": count what
each tenant's sequences computed, divided by its weight, and serve the smallest count. Knows
nothing of blocks, budgets or queues.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from shoal.engine.block_pool import ensure
from shoal.engine.sequence import Sequence

PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2
"""An output token costs its tenant more: it needs a step of its own."""

_MAX_IDLE_TENANTS = 1024
_EXPECTED_S = 1.0
"""A tenant whose last sequence ended less than this ago is expected to come again."""


class TenantShares:
    """Weighted tokens computed for each tenant, and its rows.

    `_level` is where a tenant starts that was away (the virtual time of fair queueing): idle time
    earns no credit.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._level = 0.0
        self._rows: dict[str, int] = {}
        self._open: dict[str, int] = {}  # sequences, waiting or with rows
        self._weights: dict[str, float] = {}  # of tenants with such
        self._left_s: dict[str, float] = {}  # tenants without, the one that left last behind

    def served(self, tenant: str) -> float:
        return self._served.get(tenant, self._level)

    def join(self, tenant: str, waiting: Collection[str]) -> None:
        """The tenant has a waiting sequence again. It starts no lower than the least served of
        those that wait; where nobody waits, nobody was kept waiting by those that run."""
        counts = [self.served(name) for name in waiting]
        if counts:
            self._level = max(self._level, min(counts))
        else:
            self._level = max([self._level, *map(self.served, self._rows)])
        self._served[tenant] = max(self.served(tenant), self._level)
        if len(self._served) > _MAX_IDLE_TENANTS:
            # Those at or below the level lose nothing: they would restart at the level.
            self._served = {
                name: count
                for name, count in self._served.items()
                if count > self._level or name == tenant
            }

    # --- what is open --------------------------------------------------------------------------

    def arrive(self, seq: Sequence) -> None:
        """A new sequence."""
        tenant = seq.submit.tenant
        self._open[tenant] = self._open.get(tenant, 0) + 1
        self._weights[tenant] = seq.submit.weight
        self._left_s.pop(tenant, None)

    def leave(self, seq: Sequence, now: float) -> None:
        """It is over."""
        tenant = seq.submit.tenant
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant], self._weights[tenant]
            self._left_s[tenant] = now

    def enter_row(self, seq: Sequence) -> None:
        tenant = seq.submit.tenant
        self._rows[tenant] = self._rows.get(tenant, 0) + 1

    def leave_row(self, seq: Sequence) -> None:
        tenant = seq.submit.tenant
        self._rows[tenant] -= 1
        if not self._rows[tenant]:
            del self._rows[tenant]

    def num_rows(self, tenant: str) -> int:
        return self._rows.get(tenant, 0)

    @property
    def num_with_rows(self) -> int:
        return len(self._rows)

    def rows_for_weight(self, seq: Sequence) -> float:
        """Rows of the sequence's tenant, divided by its weight."""
        tenant = seq.submit.tenant
        return self._rows.get(tenant, 0) / self._weights[tenant]

    def num_reserved(self, seq: Sequence, max_rows: int, now: float) -> int:
        """Rows that a waiting sequence leaves free if its tenant has some: one for each tenant
        that was there a moment ago, or a row would have to make way when it comes again."""
        if seq.submit.tenant not in self._rows:
            return 0
        return min(len(self._expected(now)), max_rows // 8)

    def _expected(self, now: float) -> Collection[str]:
        """Tenants that may soon come again."""
        while self._left_s and next(iter(self._left_s.values())) < now - _EXPECTED_S:
            del self._left_s[next(iter(self._left_s))]
        return self._left_s.keys()

    def heaviest(self, seq: Sequence) -> str | None:
        """The tenant that gives up a row for a waiting sequence: of those served no less than the
        sequence's own, the one with the most rows for its weight. None unless it then still has
        at least as many for its weight as the other, so that no row ever changes back."""
        tenant, weight = seq.submit.tenant, seq.submit.weight
        wanted = (self.num_rows(tenant) + 1) / weight
        served = self.served(tenant)
        rows = {
            name: num_rows / self._weights[name]
            for name, num_rows in self._rows.items()
            if (num_rows - 1) / self._weights[name] >= wanted and self.served(name) >= served
        }
        return max(rows, key=lambda name: (rows[name], self.served(name)), default=None)

    def much_heavier(self, seq: Sequence, min_open: int) -> list[str]:
        """Tenants with far more open, and at least `min_open`, that were served no less than the
        sequence's own."""
        submit = seq.submit
        num_open = self._open[submit.tenant] / submit.weight
        return self._far_above(num_open, self.served(submit.tenant), min_open)

    def has_one_tenant(self, now: float) -> bool:
        """Is there no other, and was there none a moment ago?"""
        return len(self._open) < 2 and not self._expected(now)

    def heavy_ones(self, min_open: int, now: float) -> list[str]:
        """Tenants with at least `min_open`, while there are others with far less for their weight
        that were served no more, or were there a moment ago."""
        if self._expected(now):
            return self._far_above(0.0, -1.0, min_open)
        if len(self._open) < 2:
            return []
        least = min(
            (num_open / self._weights[name], self.served(name))
            for name, num_open in self._open.items()
        )
        return self._far_above(*least, min_open)

    def _far_above(self, least_open: float, served: float, min_open: int) -> list[str]:
        return [
            name
            for name, num_open in self._open.items()
            if num_open >= min_open
            and num_open / self._weights[name] >= 2 * least_open
            and self.served(name) >= served
        ]

    # --- what is computed ----------------------------------------------------------------------

    def charge_decodes(self, seqs: list[Sequence]) -> None:
        """One token of each is computed now; recomputed ones are free."""
        served = self._served
        for seq in seqs:
            if seq.num_computed_tokens >= seq.num_charged_tokens:
                seq.num_charged_tokens = seq.num_computed_tokens + 1
                tenant = seq.submit.tenant
                cost = OUTPUT_WEIGHT / seq.submit.weight
                served[tenant] = served.get(tenant, self._level) + cost

    def charge_continued(self, costs: Mapping[str, float]) -> None:
        """One new token of the rows whose costs these are is computed now, see `decode_costs`."""
        for tenant, cost in costs.items():
            self._served[tenant] = self.served(tenant) + cost

    def charge_prefill(self, seq: Sequence, num_new_tokens: int) -> None:
        """These tokens are computed now; cached and recomputed ones are free."""
        start = max(seq.num_computed_tokens, seq.num_charged_tokens)
        end = seq.num_computed_tokens + num_new_tokens
        if end <= start:
            return
        num_prompt = max(0, min(end, seq.num_prompt_tokens) - start)
        cost = PROMPT_WEIGHT * num_prompt + OUTPUT_WEIGHT * (end - start - num_prompt)
        tenant = seq.submit.tenant
        self._served[tenant] = self.served(tenant) + cost / seq.submit.weight
        seq.num_charged_tokens = end

    def check(self, running: Iterable[Sequence], sequences: Iterable[Sequence]) -> None:
        """Raises InvariantError unless rows and sequences of each tenant are counted."""
        rows = Counter(seq.submit.tenant for seq in running)
        ensure(rows == self._rows, "the rows of a tenant are not counted")
        num_open = Counter(seq.submit.tenant for seq in sequences)
        ensure(num_open == self._open, "the sequences of a tenant are not counted")
        ensure(self._weights.keys() == num_open.keys(), "a tenant has no weight")


def decode_costs(seqs: list[Sequence]) -> dict[str, float]:
    """What one more token of each of these costs their tenants."""
    costs: dict[str, float] = {}
    for seq in seqs:
        submit = seq.submit
        costs[submit.tenant] = costs.get(submit.tenant, 0.0) + OUTPUT_WEIGHT / submit.weight
    return costs
