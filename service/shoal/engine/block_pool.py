"""KV blocks by id: which are free, which are used and by how many, which may be evicted.

Knows nothing of tokens or sequences. A block is in exactly one of four states: unbacked (costs no
memory: never used, or given back), free (reference count 0, no content), used (reference count
above 0), evictable (reference count 0, but the prefix cache can still find it).
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable

from shoal.engine.kv_budget import Account


class InvariantError(Exception):
    """The engine's own bookkeeping is wrong; continuing could mix up sequences."""


def ensure(condition: bool, message: str) -> None:
    """Like assert, but also checked under `python -O`. Raises InvariantError."""
    if not condition:
        raise InvariantError(message)


class BlockPool:
    """Hands out `num_blocks` blocks, counts references, evicts the least recently used."""

    def __init__(
        self,
        num_blocks: int,
        on_evict: Callable[[int], object],
        account: Account | None = None,
    ) -> None:
        """`on_evict(block_id)` is called when a cached block is reused for new content. `account`:
        of the memory that models share; None = all blocks are this pool's own."""
        self.num_blocks = num_blocks
        self._on_evict = on_evict
        self._account = account
        if account is not None:
            account.pool = weakref.proxy(self)
        # Stacks: the block freed last is most likely still in the CPU's cache.
        self._unbacked = list(range(num_blocks - 1, -1, -1))
        self._free: list[int] = []
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._num_used = 0
        self._ref_counts = [0] * num_blocks
        self._cached = bytearray(num_blocks)

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give now."""
        idle, unbacked = len(self._free) + len(self._evictable), len(self._unbacked)
        if self._account is None:
            return idle + unbacked
        most = idle + min(unbacked, self._account.num_affordable)
        limit = self._account.limit
        return most if limit is None else max(0, min(most, limit - self._num_used))

    @property
    def num_admissible(self) -> int:
        """Those of them that a new sequence may have."""
        if self._account is None:
            return self.num_available
        return min(self.num_available, self._account.limit_of_admission - self._num_used)

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        return self._num_used

    @property
    def num_backed(self) -> int:
        """Blocks that cost memory."""
        return self.num_blocks - len(self._unbacked)

    def ref_count(self, block_id: int) -> int:
        """Sequences whose block table names the block."""
        return self._ref_counts[block_id]

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each. The caller has looked at `num_available`."""
        ensure(count <= self.num_available, f"{count} blocks requested, {self.num_available} left")
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        """Free blocks first, then memory nobody uses, then what is only cached: the other models'
        first while this one has less than its share."""
        account = self._account
        if self._free:
            block_id = self._free.pop()
        elif self._unbacked and (account is None or account.has_room):
            block_id = self._unbacked.pop()
        elif self._evictable and not self._takes_from_others:
            block_id = self._evict()
        else:
            assert account is not None, "all blocks of this pool are used"
            account.make_room()
            block_id = self._unbacked.pop()
        self._ref_counts[block_id] = 1
        self._num_used += 1
        return block_id

    @property
    def _takes_from_others(self) -> bool:
        account = self._account
        if account is None or not self._unbacked or self.num_backed >= account.share:
            return False
        return account.num_affordable > 0

    def _evict(self) -> int:
        block_id, _ = self._evictable.popitem(last=False)
        self._cached[block_id] = 0
        self._on_evict(block_id)
        return block_id

    def give_back(self, count: int) -> list[int]:
        """At most `count` blocks that are not used become unbacked: free ones, then the least
        recently used of the cache. Their ids."""
        given: list[int] = []
        while len(given) < count and (self._free or self._evictable):
            given.append(self._free.pop() if self._free else self._evict())
        self._unbacked += given
        return given

    def share(self, block_id: int) -> None:
        """One more reference to a used or evictable block."""
        if self._ref_counts[block_id] == 0:
            del self._evictable[block_id]
            self._num_used += 1
        self._ref_counts[block_id] += 1

    def release(self, block_ids: list[int]) -> None:
        """One reference less to each. The end of a chain is evicted before its beginning, since a
        block is only found through those before it; so the last block is released first."""
        for block_id in reversed(block_ids):
            ensure(self._ref_counts[block_id] > 0, f"block {block_id} released twice")
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._num_used -= 1
                if self._cached[block_id]:
                    self._evictable[block_id] = None
                else:
                    self._free.append(block_id)

    def mark_cached(self, block_id: int) -> None:
        """The prefix cache can find this used block: keep its content for others after its use."""
        ensure(self._ref_counts[block_id] > 0, f"block {block_id} cached, and nobody uses it")
        self._cached[block_id] = 1

    def unmark_cached(self, block_id: int) -> None:
        """The prefix cache forgot this block; its content is of no use to others."""
        self._cached[block_id] = 0
        if self._ref_counts[block_id] == 0:
            del self._evictable[block_id]
            self._free.append(block_id)

    def check(self) -> None:
        """Raises InvariantError unless every block is in exactly one state."""
        idle = [*self._unbacked, *self._free, *self._evictable]
        used = {i for i, count in enumerate(self._ref_counts) if count > 0}
        ensure(len(set(idle)) == len(idle), "a block has two states")
        ensure(not used.intersection(idle), "a block has two states")
        ensure(len(idle) + len(used) == self.num_blocks, "a block is lost")
        ensure(len(used) == self._num_used, "the number of used blocks is wrong")
        ensure(min(self._ref_counts, default=0) >= 0, "a reference count is negative")
        ensure(all(self._cached[i] for i in self._evictable), "an evictable block is not cached")
        empty = [*self._unbacked, *self._free]
        ensure(not any(self._cached[i] for i in empty), "a free block is marked cached")
