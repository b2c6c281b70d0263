"""Which blocks a sequence holds: pool and prefix cache of one model together.

Admission takes blocks for all known tokens at once, cached ones first; decode grows the table
block by block. Knows nothing of queues, budgets or steps.
"""

from shoal.engine.block_pool import BlockPool, ensure
from shoal.engine.prefix_cache import CachedBlock, PrefixCache
from shoal.engine.sequence import Sequence


class KVBlocks:
    """Block tables of all sequences of one model."""

    def __init__(self, num_blocks: int, block_size: int, *, prefix_cache: bool) -> None:
        self.block_size = block_size
        self._uses_cache = prefix_cache
        self.cache = PrefixCache(block_size)
        self.pool = BlockPool(num_blocks, on_evict=self.cache.forget)
        # Keys of prompt blocks that a running sequence is about to publish, and which one.
        self._expected: dict[bytes, int] = {}

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def may_grow(self, seq: Sequence) -> bool:
        """Can the sequence ask for another block some day?"""
        return len(seq.block_ids) < self.blocks_for(seq.max_computed_tokens)

    def find_prefix(self, seq: Sequence) -> list[CachedBlock]:
        """Cached blocks the sequence can start from; at least one token is left to compute.
        Not read for prompt log-probabilities: those need every position computed."""
        if not (self._is_shared(seq) and seq.prompt_logprobs is None):
            return []
        num_usable = (seq.num_tokens - 1) // self.block_size
        salt = seq.submit.cache_salt
        self.cache.extend_keys(seq.block_keys, seq.token_ids, salt, num_usable)
        return self.cache.find(seq.block_keys[:num_usable], salt)

    def is_worth_waiting(self, seq: Sequence, num_found: int) -> bool:
        """Is a running sequence about to publish at least half of what `seq` would have to
        compute? So the copies of one prompt wait for the first, and compute it once."""
        if not (self._is_shared(seq) and seq.prompt_logprobs is None and self._expected):
            return False
        num_expected = 0
        for key in seq.block_keys[num_found : (seq.num_tokens - 1) // self.block_size]:
            if key.digest not in self._expected:
                break
            num_expected += 1
        num_missing = seq.num_tokens - num_found * self.block_size
        return 2 * num_expected * self.block_size >= num_missing

    def admit(self, seq: Sequence, found: list[CachedBlock], num_reserved: int) -> bool:
        """Gives blocks for all known tokens, the found ones first, and sets how far the
        sequence is computed. False, and nothing done, if that would leave fewer than
        `num_reserved` blocks."""
        num_new = self.blocks_for(seq.num_tokens) - len(found)
        num_revived = sum(self.pool.num_holders(entry.block_id) == 0 for entry in found)
        if num_new + num_revived + num_reserved > self.pool.num_available:
            return False
        for entry in found:  # before allocating, which could evict them
            self.pool.share(entry.block_id)
        seq.block_ids = [entry.block_id for entry in found] + self.pool.allocate(num_new)
        seq.num_computed_tokens = len(found) * self.block_size
        seq.num_published_blocks = len(found)
        seq.last_published = found[-1].serial if found else seq.submit.cache_salt
        if self._is_shared(seq):
            for key in seq.block_keys[len(found) :]:
                self._expected.setdefault(key.digest, seq.seq_id)
        return True

    def grow(self, seq: Sequence) -> bool:
        """One more block at the end of the table; False if there is none."""
        if self.pool.num_available == 0:
            return False
        seq.block_ids += self.pool.allocate(1)
        return True

    def publish(self, seq: Sequence) -> None:
        """Lets others find the blocks that are full of computed tokens by now."""
        num_full = seq.num_computed_tokens // self.block_size
        if num_full <= seq.num_published_blocks or not self._is_shared(seq):
            return
        self.cache.extend_keys(seq.block_keys, seq.token_ids, seq.submit.cache_salt, num_full)
        for index in range(seq.num_published_blocks, num_full):
            key = seq.block_keys[index]
            # None is there, or the same content from another sequence: ours stays private then,
            # and the chain goes on from the other.
            entry = self.cache.get(key, seq.last_published)
            if entry is None:
                self._forget(self.cache.holder_of(key.digest))  # unreachable, or a collision
                entry = self.cache.put(key, seq.last_published, seq.block_ids[index])
                self.pool.mark_cached(entry.block_id)
            seq.last_published = entry.serial
            self._expect_no_more(key.digest, seq)
        seq.num_published_blocks = num_full

    def release(self, seq: Sequence) -> None:
        """The sequence ended or goes back to waiting."""
        for key in seq.block_keys[seq.num_published_blocks :]:
            self._expect_no_more(key.digest, seq)
        self.pool.release(seq.block_ids)
        seq.block_ids = []
        seq.num_computed_tokens = 0
        seq.num_published_blocks = 0

    def withdraw(self, seq: Sequence) -> None:
        """The sequence failed: nobody may find any of its blocks any more, neither those it
        computed nor those it read, since the fault may lie in either."""
        for block_id in seq.block_ids:
            self._forget(block_id)

    def _is_shared(self, seq: Sequence) -> bool:
        return self._uses_cache and seq.submit.use_prefix_cache

    def _forget(self, block_id: int | None) -> None:
        if block_id is not None and self.cache.forget(block_id):
            self.pool.unmark_cached(block_id)

    def _expect_no_more(self, digest: bytes, seq: Sequence) -> None:
        if self._expected.get(digest) == seq.seq_id:
            del self._expected[digest]

    def check(self, running: list[Sequence]) -> None:
        """Raises InvariantError unless the tables of the running sequences and the pool's
        counts agree, and every shared block is one the cache vouches for."""
        self.pool.check()
        self.cache.check()
        holders: dict[int, int] = {}
        for seq in running:
            ensure(len(set(seq.block_ids)) == len(seq.block_ids), "a table names a block twice")
            ensure(
                seq.num_computed_tokens <= len(seq.block_ids) * self.block_size,
                "tokens are computed without a block",
            )
            for block_id in seq.block_ids:
                holders[block_id] = holders.get(block_id, 0) + 1
            for block_id in seq.block_ids[seq.num_published_blocks :]:
                ensure(self.pool.num_holders(block_id) == 1, "an unpublished block is shared")
        ensure(self.pool.num_used == len(holders), "a block has a holder that is gone")
        ensure(
            all(self.pool.num_holders(block) == count for block, count in holders.items()),
            "a block's count is wrong",
        )
        ensure(
            self._expected.keys() <= {key.digest for seq in running for key in seq.block_keys},
            "a key is expected from nobody",
        )
        ensure(
            set(self._expected.values()) <= {seq.seq_id for seq in running},
            "a key is expected from a sequence that is gone",
        )
