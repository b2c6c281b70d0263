"""KV blocks by id: which are free, which are used and by how many, which may be evicted.

Knows nothing of tokens or sequences. A block is in exactly one of three states: free (reference
count 0, no content), used (reference count above 0), evictable (reference count 0, but the prefix
cache can still find it).
"""

from collections import OrderedDict
from collections.abc import Callable


class InvariantError(Exception):
    """The engine's own bookkeeping is wrong; continuing could mix up sequences."""


def ensure(condition: bool, message: str) -> None:
    """Like assert, but also checked under `python -O`. Raises InvariantError."""
    if not condition:
        raise InvariantError(message)


class BlockPool:
    """Hands out `num_blocks` blocks, counts references, evicts the least recently used."""

    def __init__(self, num_blocks: int, on_evict: Callable[[int], object]) -> None:
        """`on_evict(block_id)` is called when a cached block is reused for new content."""
        self.num_blocks = num_blocks
        self._on_evict = on_evict
        # A stack: the block freed last is most likely still in the CPU's cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._ref_counts = [0] * num_blocks
        self._cached = bytearray(num_blocks)

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give now."""
        return len(self._free) + len(self._evictable)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_available

    def ref_count(self, block_id: int) -> int:
        """Sequences whose block table names the block."""
        return self._ref_counts[block_id]

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each. The caller has looked at `num_available`."""
        ensure(count <= self.num_available, f"{count} blocks requested, {self.num_available} left")
        return [self._take() for _ in range(count)]

    def _take(self) -> int:
        if self._free:
            block_id = self._free.pop()
        else:
            block_id, _ = self._evictable.popitem(last=False)
            self._cached[block_id] = 0
            self._on_evict(block_id)
        self._ref_counts[block_id] = 1
        return block_id

    def share(self, block_id: int) -> None:
        """One more reference to a used or evictable block."""
        if self._ref_counts[block_id] == 0:
            del self._evictable[block_id]
        self._ref_counts[block_id] += 1

    def release(self, block_ids: list[int]) -> None:
        """One reference less to each. The end of a chain is evicted before its beginning, since a
        block is only found through those before it; so the last block is released first."""
        for block_id in reversed(block_ids):
            ensure(self._ref_counts[block_id] > 0, f"block {block_id} released twice")
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
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
        free, evictable = set(self._free), set(self._evictable)
        used = {i for i, count in enumerate(self._ref_counts) if count > 0}
        ensure(len(free) == len(self._free), "a block is free twice")
        ensure(not (free & evictable or free & used or evictable & used), "a block has two states")
        ensure(len(free) + len(evictable) + len(used) == self.num_blocks, "a block is lost")
        ensure(min(self._ref_counts, default=0) >= 0, "a reference count is negative")
        ensure(all(self._cached[i] for i in evictable), "an evictable block is not cached")
        ensure(not any(self._cached[i] for i in free), "a free block is marked cached")
