"""Who joins the batch next: priority, then the least-served tenant, then arrival.

What a tenant was served is counted in `tenants.py`. Knows nothing of blocks or budgets.
"""

from collections import deque

from shoal.engine.block_pool import ensure
from shoal.engine.sequence import Sequence
from shoal.engine.tenants import TenantShares

AGEING_S = 5.0
"""A sequence gains one priority step for every so many seconds of waiting."""


class WaitingQueue:
    """Sequences without a row. Those preempted for lack of blocks go before others that were
    served as much, in the order they once were admitted; one that made way for another tenant is
    the next of its own."""

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
            self.shares.join(seq.submit.tenant, self._num_waiting)
        self.shares.arrive(seq)
        self._enter(seq)
        self._fifo(seq).append(seq)

    def put_back(self, seq: Sequence) -> None:
        """A sequence that was popped and could not start, or that was preempted: to the front
        of its queue. Put several back in the opposite order of popping."""
        self._enter(seq)
        fifo = self._preempted if seq.goes_first else self._fifo(seq)
        fifo.appendleft(seq)

    def pop(self, now: float) -> Sequence:
        """Takes out the next in order; the queue is not empty."""
        seq = self.peek(now)
        self.remove(seq)
        return seq

    def peek(self, now: float) -> Sequence:
        """The next in order; the queue is not empty."""
        if not self._preempted:
            return self._choose(now)
        first, served = self._preempted[0], self.shares.served
        if self._levels:
            seq = self._choose(now)
            if served(seq.submit.tenant) < served(first.submit.tenant):
                return seq
        return first

    def remove(self, seq: Sequence) -> None:
        self._ids.remove(seq.seq_id)
        self.num_tokens -= seq.num_tokens
        if seq.goes_first:
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
        if not seq.goes_first:
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
            priority: min((fifo[0] for fifo in tenants.values()), key=_waiting_since)
            for priority, tenants in self._levels.items()
        }
        top = min(oldest)
        raised = min(oldest, key=lambda p: (p - (now - oldest[p].waiting_since_s) // AGEING_S, p))
        if raised != top:
            return oldest[raised]
        heads = (fifo[0] for fifo in self._levels[top].values())
        return min(heads, key=self._share_so_far)

    def _share_so_far(self, seq: Sequence) -> tuple[float, float, int]:
        tenant, shares = seq.submit.tenant, self.shares
        return shares.served(tenant), shares.num_rows(tenant) / seq.submit.weight, seq.arrival

    def check(self) -> None:
        """Raises InvariantError unless counts and queues agree."""
        waiting = [seq for tenants in self._levels.values() for q in tenants.values() for seq in q]
        ensure(sum(self._num_waiting.values()) == len(waiting), "tenant counts are wrong")
        waiting.extend(self._preempted)
        ensure({seq.seq_id for seq in waiting} == self._ids, "a waiting sequence is lost")
        ensure(len(waiting) == len(self._ids), "a sequence waits twice")
        ensure(sum(seq.num_tokens for seq in waiting) == self.num_tokens, "token count is wrong")


def _waiting_since(seq: Sequence) -> tuple[float, int]:
    return seq.waiting_since_s, seq.arrival
