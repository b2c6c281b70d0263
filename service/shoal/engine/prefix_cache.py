"""Finds full KV blocks again by the tokens they were computed from.

Key: SHA-256 over the key of the block before, the salt (first block) and the token ids; never
Python's hash(). On a hit the tokens and the chain are compared too, so a collision is a miss.
Knows block ids, not who uses them; the model is implicit, each has its own cache.
"""

from array import array
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from shoal.engine.block_pool import ensure


class BlockKey(NamedTuple):
    """What a full block is looked up by, and what a hit is compared with."""

    digest: bytes
    token_bytes: bytes


class CachedBlock(NamedTuple):
    """One entry of the cache."""

    block_id: int
    serial: int
    """Never used twice."""
    parent: int | str
    """Serial of the entry before it in the chain; the salt for a first block."""
    key: BlockKey


class PrefixCache:
    """Full blocks by key. At most one entry for a key, at most one for a block."""

    def __init__(
        self, block_size: int, digest: Callable[[bytes], bytes] = lambda data: sha256(data).digest()
    ) -> None:
        self._block_size = block_size
        self._digest = digest
        self._by_digest: dict[bytes, CachedBlock] = {}
        self._by_block: dict[int, CachedBlock] = {}
        self._next_serial = 0

    def __len__(self) -> int:
        return len(self._by_block)

    def extend_keys(
        self, keys: list[BlockKey], token_ids: list[int], salt: str, num_blocks: int
    ) -> None:
        """Appends to `keys`, a chain's keys so far, until it covers `num_blocks` blocks."""
        size = self._block_size
        for index in range(len(keys), num_blocks):
            before = keys[-1].digest if keys else self._digest(salt.encode())
            token_bytes = array("q", token_ids[index * size : (index + 1) * size]).tobytes()
            keys.append(BlockKey(self._digest(before + token_bytes), token_bytes))

    def find(self, keys: list[BlockKey], salt: str) -> list[CachedBlock]:
        """The longest run of cached blocks from the start of a chain."""
        blocks: list[CachedBlock] = []
        parent: int | str = salt
        for key in keys:
            entry = self.get(key, parent)
            if entry is None:
                break
            blocks.append(entry)
            parent = entry.serial
        return blocks

    def get(self, key: BlockKey, parent: int | str) -> CachedBlock | None:
        """The entry with these tokens after this parent."""
        entry = self._by_digest.get(key.digest)
        if entry is None or entry.parent != parent or entry.key.token_bytes != key.token_bytes:
            return None
        return entry

    def block_with(self, digest: bytes) -> int | None:
        """The block of the entry with this digest, whatever its tokens and parent."""
        entry = self._by_digest.get(digest)
        return None if entry is None else entry.block_id

    def put(self, key: BlockKey, parent: int | str, block_id: int) -> CachedBlock:
        """New entry; key and block must be free of another one."""
        ensure(key.digest not in self._by_digest, "a key is cached twice")
        ensure(block_id not in self._by_block, f"block {block_id} is cached twice")
        entry = CachedBlock(block_id, self._next_serial, parent, key)
        self._next_serial += 1
        self._by_digest[key.digest] = self._by_block[block_id] = entry
        return entry

    def forget(self, block_id: int) -> bool:
        """The block's content is overwritten or wrong. False if it was not cached. The entries
        that follow it can no longer be reached, and are evicted in their turn."""
        entry = self._by_block.pop(block_id, None)
        if entry is None:
            return False
        del self._by_digest[entry.key.digest]
        return True

    def block_ids(self) -> set[int]:
        return set(self._by_block)

    def check(self) -> None:
        """Raises InvariantError unless keys and blocks are one to one."""
        ensure(len(self._by_digest) == len(self._by_block), "keys and blocks are not one to one")
        for entry in self._by_digest.values():
            ensure(self._by_block.get(entry.block_id) is entry, "a key names a forgotten block")
