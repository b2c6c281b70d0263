"""Which blocks a sequence holds: pool and prefix cache of one model together.

Admission takes blocks for all known tokens at once, cached ones first; decode grows the table
block by block. Knows nothing of queues, budgets or steps.
"""

from collections.abc import Iterable

from shoal.engine.block_pool import BlockPool, ensure
from shoal.engine.kv_budget import Account
from shoal.engine.prefix_cache import CachedBlock, PrefixCache
from shoal.engine.sequence import Sequence


class KVBlocks:
    """Block tables of all sequences of one model."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        prefix_cache: bool,
        account: Account | None = None,
    ) -> None:
        """`account`: of the memory that models share; None = all blocks are this model's."""
        self.block_size = block_size
        self._uses_cache = prefix_cache
        self.cache = PrefixCache(block_size)
        self._account = account
        self.pool = BlockPool(num_blocks, on_evict=self.cache.forget, account=account)
        # Keys of prompt blocks that a running sequence is about to compute, and which one.
        self._pending: dict[bytes, int] = {}

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def may_grow(self, seq: Sequence) -> bool:
        """May the sequence need another block later?"""
        return len(seq.block_ids) < self.blocks_for(seq.max_computed_tokens)

    def find_prefix(self, seq: Sequence) -> list[CachedBlock]:
        """Cached blocks the sequence can start from; at least one token is left to compute."""
        if not self._is_shared(seq):
            return []
        num_usable = self._num_usable(seq)
        salt = seq.cache_salt
        self.cache.extend_keys(seq.block_keys, seq.token_ids, salt, num_usable)
        return self.cache.find(seq.block_keys[:num_usable], salt)

    def _num_usable(self, seq: Sequence) -> int:
        """Blocks that need not be computed if the cache has them. A log-probability needs the
        position before it computed."""
        num_tokens = seq.num_tokens - 1
        if seq.prompt_logprobs is not None:
            num_tokens = min(num_tokens, max(0, seq.submit.output.prompt_logprobs_start - 1))
        return num_tokens // self.block_size

    def should_wait_for_prefix(self, seq: Sequence, num_prefix_blocks: int) -> bool:
        """Is a running sequence about to compute at least half of what `seq` would have to? So
        the copies of one prompt wait for the first, and the prompt is computed once."""
        if not (self._is_shared(seq) and self._pending):
            return False
        num_pending = 0
        for key in seq.block_keys[num_prefix_blocks : self._num_usable(seq)]:
            if key.digest not in self._pending:
                break
            num_pending += 1
        num_missing = seq.num_tokens - num_prefix_blocks * self.block_size
        return 2 * num_pending * self.block_size >= num_missing

    def admit(self, seq: Sequence, prefix: list[CachedBlock], num_reserved: int) -> bool:
        """Gives blocks for all known tokens, those of the cached prefix first, and sets how far the
        sequence is computed. False, and nothing done, if that would leave fewer than
        `num_reserved` blocks."""
        num_new = self.blocks_for(seq.num_tokens) - len(prefix)
        num_revived = sum(self.pool.ref_count(entry.block_id) == 0 for entry in prefix)
        num_wanted = num_new + num_revived + num_reserved
        if num_wanted > self.pool.num_admissible:
            self._note_shortage(num_wanted)
            return False
        for entry in prefix:  # before allocating, which could evict them
            self.pool.share(entry.block_id)
        seq.block_ids = [entry.block_id for entry in prefix] + self.pool.allocate(num_new)
        seq.num_computed_tokens = len(prefix) * self.block_size
        seq.num_cached_blocks = len(prefix)
        seq.last_cached = prefix[-1].serial if prefix else seq.cache_salt
        if self._is_shared(seq):
            for key in seq.block_keys[len(prefix) :]:
                self._pending.setdefault(key.digest, seq.seq_id)
        return True

    def grow(self, seq: Sequence) -> bool:
        """One more block at the end of the table; False if there is none."""
        if self.pool.num_available == 0:
            self._note_shortage(1)
            return False
        seq.block_ids += self.pool.allocate(1)
        return True

    def num_missing(self, seqs: Iterable[Sequence]) -> int:
        """Blocks that these lack for the tokens they know."""
        return sum(max(0, self.blocks_for(seq.num_tokens) - len(seq.block_ids)) for seq in seqs)

    def cache_full_blocks(self, seq: Sequence) -> None:
        """Lets others find the blocks that are full of computed tokens by now."""
        num_full = seq.num_computed_tokens // self.block_size
        if num_full <= seq.num_cached_blocks or not self._is_shared(seq):
            return
        self.cache.extend_keys(seq.block_keys, seq.token_ids, seq.cache_salt, num_full)
        for index in range(seq.num_cached_blocks, num_full):
            key = seq.block_keys[index]
            # There is none yet, or one with the same content from another sequence: then our block
            # stays private, and the next key follows the other's entry.
            entry = self.cache.get(key, seq.last_cached)
            if entry is None:
                self._forget(self.cache.block_with(key.digest))  # unreachable, or a collision
                entry = self.cache.put(key, seq.last_cached, seq.block_ids[index])
                self.pool.mark_cached(entry.block_id)
            seq.last_cached = entry.serial
            self._remove_pending(key.digest, seq)
        seq.num_cached_blocks = num_full

    def release(self, seq: Sequence) -> None:
        """The sequence ended or is preempted."""
        for key in seq.block_keys[seq.num_cached_blocks :]:
            self._remove_pending(key.digest, seq)
        self.pool.release(seq.block_ids)
        seq.block_ids = []
        seq.num_computed_tokens = 0
        seq.num_cached_blocks = 0

    def invalidate(self, seq: Sequence) -> None:
        """The sequence failed: the cache forgets all its blocks, those it computed and those it
        read, since the fault may lie in either."""
        for block_id in seq.block_ids:
            self._forget(block_id)

    def reset_cache(self) -> int:
        """Forgets all cached blocks and gives back the memory of those that nobody uses. Returns
        how many were cached."""
        cached = self.cache.block_ids()
        for block_id in cached:
            self._forget(block_id)
        if self._account is not None:
            self._account.release(self.pool.give_back(self.pool.num_blocks))
        return len(cached)

    def expect(self, seq: Sequence, sign: int) -> None:
        """The sequence arrived (1) or ended (-1): what it may need at most counts as demand."""
        if self._account is not None:
            self._account.demand += sign * self.blocks_for(seq.max_computed_tokens)
            if self._account.demand == 0:  # no plan may follow that would end it
                self.end_shortage()

    def end_shortage(self) -> None:
        """Nobody waits for blocks any more, as far as is known."""
        if self._account is not None:
            self._account.is_short = False

    @property
    def has_excess(self) -> bool:
        """Are more blocks used than this model's share?"""
        return self._account is not None and self._account.has_excess

    def _note_shortage(self, num_wanted: int) -> None:
        """Blocks were not available: where they are this model's by right, others make way."""
        account = self._account
        if account is not None and self.pool.num_used + num_wanted <= account.share:
            account.is_short = True

    def _is_shared(self, seq: Sequence) -> bool:
        return self._uses_cache and seq.submit.use_prefix_cache

    def _forget(self, block_id: int | None) -> None:
        if block_id is not None and self.cache.forget(block_id):
            self.pool.unmark_cached(block_id)

    def _remove_pending(self, digest: bytes, seq: Sequence) -> None:
        if self._pending.get(digest) == seq.seq_id:
            del self._pending[digest]

    def check(self, running: list[Sequence]) -> None:
        """Raises InvariantError unless the tables of the running sequences and the pool's
        counts agree, and every shared block is in the prefix cache."""
        self.pool.check()
        self.cache.check()
        ref_counts: dict[int, int] = {}
        for seq in running:
            ensure(len(set(seq.block_ids)) == len(seq.block_ids), "a table names a block twice")
            ensure(
                seq.num_computed_tokens <= len(seq.block_ids) * self.block_size,
                "tokens are computed without a block",
            )
            for block_id in seq.block_ids:
                ref_counts[block_id] = ref_counts.get(block_id, 0) + 1
            for block_id in seq.block_ids[seq.num_cached_blocks :]:
                ensure(self.pool.ref_count(block_id) == 1, "an uncached block is shared")
        ensure(self.pool.num_used == len(ref_counts), "a block is used by nobody")
        ensure(
            all(self.pool.ref_count(block) == count for block, count in ref_counts.items()),
            "a block's reference count is wrong",
        )
        ensure(
            self._pending.keys() <= {key.digest for seq in running for key in seq.block_keys},
            "a key is pending, and no running sequence has it",
        )
        ensure(
            set(self._pending.values()) <= {seq.seq_id for seq in running},
            "a key is pending from a sequence that is gone",
        )
