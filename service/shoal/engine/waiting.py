"""Who joins the batch next: priority, then the least-served tenant, then arrival.

Tenant fairness after Sheng et al. 2024, "Fairness in Serving Large Language Models": count what
each tenant's sequences computed, serve the smallest count. Knows nothing of blocks or budgets.
"""

from collections import deque
from collections.abc import Mapping

from shoal.engine.block_pool import ensure
from shoal.engine.sequence import Sequence

AGEING_S = 5.0
"""A sequence gains one priority step for every so many seconds of waiting."""
PROMPT_WEIGHT = 1
OUTPUT_WEIGHT = 2
"""An output token costs its tenant more: it needs a step of its own."""

_MAX_IDLE_TENANTS = 1024


class TenantShares:
    """Weighted tokens computed for each tenant, on a common scale.

    `_level` is the count of the tenant served last (the virtual time of fair queueing). A
    tenant that returns starts there at least: idle time earns no credit.
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._level = 0

    def served(self, tenant: str) -> int:
        return self._served.get(tenant, self._level)

    def join(self, tenant: str) -> None:
        """The tenant has a waiting sequence again."""
        self._served[tenant] = max(self.served(tenant), self._level)
        if len(self._served) > _MAX_IDLE_TENANTS:
            # Those at or below the level lose nothing: they would restart at the level.
            self._served = {
                name: count
                for name, count in self._served.items()
                if count > self._level or name == tenant
            }

    def admit(self, tenant: str) -> None:
        """One of the tenant's sequences was chosen."""
        self._level = max(self._level, self.served(tenant))

    def charge_decodes(self, seqs: list[Sequence]) -> None:
        """One token of each is computed now; recomputed ones are free."""
        served = self._served
        for seq in seqs:
            if seq.num_computed_tokens >= seq.num_charged_tokens:
                seq.num_charged_tokens = seq.num_computed_tokens + 1
                tenant = seq.submit.tenant
                served[tenant] = served.get(tenant, self._level) + OUTPUT_WEIGHT

    def charge_continued(self, num_rows: Mapping[str, int]) -> None:
        """One new token of so many sequences of each tenant is computed now."""
        for tenant, count in num_rows.items():
            self._served[tenant] = self.served(tenant) + OUTPUT_WEIGHT * count

    def charge_prefill(self, seq: Sequence, num_new_tokens: int) -> None:
        """These tokens are computed now; cached and recomputed ones are free."""
        start = max(seq.num_computed_tokens, seq.num_charged_tokens)
        end = seq.num_computed_tokens + num_new_tokens
        if end <= start:
            return
        num_prompt = max(0, min(end, seq.num_prompt_tokens) - start)
        weighted = PROMPT_WEIGHT * num_prompt + OUTPUT_WEIGHT * (end - start - num_prompt)
        self._served[seq.submit.tenant] = self.served(seq.submit.tenant) + weighted
        seq.num_charged_tokens = end


class WaitingQueue:
    """Sequences without a row. Preempted ones go first, in the order they once were admitted."""

    def __init__(self) -> None:
        self.shares = TenantShares()
        self.num_tokens = 0
        """Known tokens of all waiting sequences."""
        self._preempted: deque[Sequence] = deque()
        self._levels: dict[int, dict[str, deque[Sequence]]] = {}  # priority -> tenant -> fifo
        self._num_waiting: dict[str, int] = {}  # tenant -> sequences in _levels
        self._ids: set[int] = set()

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._ids

    def add(self, seq: Sequence) -> None:
        """A sequence that just arrived."""
        if seq.submit.tenant not in self._num_waiting:
            self.shares.join(seq.submit.tenant)
        self._enter(seq)
        self._fifo(seq).append(seq)

    def put_back(self, seq: Sequence) -> None:
        """A sequence that was popped and could not start, or that was preempted: to the front
        of its queue. Put several back in the opposite order of popping."""
        self._enter(seq)
        fifo = self._preempted if seq.num_preemptions else self._fifo(seq)
        fifo.appendleft(seq)

    def pop(self, now: float) -> Sequence:
        """The next in order; the queue is not empty."""
        seq = self._preempted[0] if self._preempted else self._choose(now)
        self.remove(seq)
        return seq

    def remove(self, seq: Sequence) -> None:
        self._ids.remove(seq.seq_id)
        self.num_tokens -= seq.num_tokens
        if seq.num_preemptions:
            self._preempted.remove(seq)
            return
        priority, tenant = seq.submit.priority, seq.submit.tenant
        tenants = self._levels[priority]
        tenants[tenant].remove(seq)  # mostly the first one
        if not tenants[tenant]:
            del tenants[tenant]
        if not tenants:
            del self._levels[priority]
        self._num_waiting[tenant] -= 1
        if not self._num_waiting[tenant]:
            del self._num_waiting[tenant]

    def _enter(self, seq: Sequence) -> None:
        self._ids.add(seq.seq_id)
        self.num_tokens += seq.num_tokens
        if not seq.num_preemptions:
            tenant = seq.submit.tenant
            self._num_waiting[tenant] = self._num_waiting.get(tenant, 0) + 1

    def _fifo(self, seq: Sequence) -> deque[Sequence]:
        tenants = self._levels.setdefault(seq.submit.priority, {})
        return tenants.setdefault(seq.submit.tenant, deque())

    def _choose(self, now: float) -> Sequence:
        """In the best level, the least-served tenant's first. But when waiting has raised the
        oldest of another level above that whole level, exactly that sequence: ageing ends
        starvation and changes nothing about fairness among equals."""
        oldest = {
            priority: min((fifo[0] for fifo in tenants.values()), key=_arrival)
            for priority, tenants in self._levels.items()
        }
        top = min(oldest)
        raised = min(oldest, key=lambda p: (p - (now - oldest[p].arrival_s) // AGEING_S, p))
        if raised != top:
            return oldest[raised]
        served = self.shares.served
        heads = (fifo[0] for fifo in self._levels[top].values())
        return min(heads, key=lambda seq: (served(seq.submit.tenant), seq.arrival))

    def check(self) -> None:
        """Raises InvariantError unless counts and queues agree."""
        waiting = [seq for tenants in self._levels.values() for q in tenants.values() for seq in q]
        ensure(sum(self._num_waiting.values()) == len(waiting), "tenant counts are wrong")
        waiting.extend(self._preempted)
        ensure({seq.seq_id for seq in waiting} == self._ids, "a waiting sequence is lost")
        ensure(len(waiting) == len(self._ids), "a sequence waits twice")
        ensure(sum(seq.num_tokens for seq in waiting) == self.num_tokens, "token count is wrong")


def _arrival(seq: Sequence) -> int:
    return seq.arrival
