"""The KV memory that all models of the engine share, by demand.

A block costs memory from its first use until its pages are given back. Each model is sure of a
share. Beyond it a model admits sequences as far as the others, each within its share, have no
demand for the memory; what they hold without using it (free blocks, or only cached ones) is given
back for it. A model that waits for blocks within its own share is short; while one is, those beyond
their share get no more, and preempt down to it.

Knows bytes and pools, nothing of tokens or sequences.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Pool(Protocol):
    """What the budget asks of a model's blocks."""

    @property
    def num_used(self) -> int:
        """Blocks that sequences hold."""
        ...

    @property
    def num_backed(self) -> int:
        """Blocks that cost memory now."""
        ...

    def give_back(self, count: int) -> list[int]:
        """The ids of at most `count` blocks that were not used and cost nothing from now on."""
        ...


@dataclass(slots=True, eq=False)
class Account:
    """One model's part of the budget."""

    budget: "KVBudget"
    block_bytes: int
    share: int
    """Blocks it is sure of."""
    release: Callable[[list[int]], None]
    """Gives the memory of these blocks back to the system."""
    pool: Pool = field(init=False)
    """Weak too."""
    least: int = 0
    """Blocks of its longest sequence: its share does not shrink below."""
    demand: int = 0
    """Blocks that its sequences, waiting ones too, may need at most."""
    is_short: bool = False
    """Does it wait for a block within its share?"""

    @property
    def num_affordable(self) -> int:
        """Blocks that it could back now, beyond those it has."""
        return max(0, self.budget.reachable_bytes(self) // self.block_bytes)

    @property
    def has_excess(self) -> bool:
        """Does it use more than its share?"""
        return self.pool.num_used > self.share

    @property
    def limit(self) -> int | None:
        """Most blocks it may use now; None = what it can get."""
        return self.share if any(other.is_short for other in self._others) else None

    @property
    def limit_of_admission(self) -> int:
        """Most blocks it may use with one sequence more."""
        kept = sum(min(o.demand, o.share) * o.block_bytes for o in self._others)
        return max(self.share, (self.budget.total_bytes - kept) // self.block_bytes)

    @property
    def has_room(self) -> bool:
        """Can one more block be backed without taking another from anybody?"""
        return self.budget.free_bytes >= self.block_bytes

    def make_room(self) -> None:
        """Lets other models give back until one more block can be backed."""
        self.budget.make_room(self)

    @property
    def _others(self) -> "list[Account]":
        return [account for account in self.budget.accounts if account is not self]


class KVBudget:
    """So many bytes for the blocks of so many models, which come one after the other."""

    def __init__(self, total_bytes: int, num_models: int) -> None:
        self.total_bytes = total_bytes
        self.accounts: list[Account] = []
        self._num_models = num_models
        self._num_to_come = num_models
        self._unassigned_bytes = total_bytes

    def share_of_one_more(self) -> int:
        """Bytes that a model which comes unannounced would be sure of: an even share, as far as
        nobody's longest sequence needs it."""
        excess_bytes = sum(_spare(account) * account.block_bytes for account in self.accounts)
        even_bytes = self.total_bytes // (len(self.accounts) + 1)
        return min(even_bytes, self._unassigned_bytes + excess_bytes)

    def close(self, account: Account) -> None:
        """Its model is gone, and its blocks with it."""
        self.accounts.remove(account)
        self._unassigned_bytes += account.share * account.block_bytes

    def put_in(self, num_bytes: int) -> None:
        """A model that had memory of its own is gone: this was its part."""
        self.total_bytes += num_bytes
        self._unassigned_bytes += num_bytes

    def open(
        self, block_bytes: int, longest_bytes: int, release: Callable[[list[int]], None]
    ) -> Account:
        """An account for one model, whose longest sequence takes so many bytes. Its share is an
        even one of what is left, but not much more than that sequence: so a larger model that comes
        later can hold its own longest one. Its pool is set by the pool itself. The caller keeps the
        budget: accounts refer to it weakly, since the engine runs no collector for cycles."""
        even_bytes = self._even_bytes()
        if self._num_to_come > 0:
            even_bytes = min(even_bytes, longest_bytes + self.total_bytes // 4 // self._num_models)
        self._unassigned_bytes -= even_bytes
        account = Account(weakref.proxy(self), block_bytes, even_bytes // block_bytes, release)
        self.accounts.append(account)
        return account

    def take_out(self) -> int:
        """A model comes that has memory of its own: its even share is shared no more. Returns how
        much that is."""
        even_bytes = self._even_bytes()
        self._unassigned_bytes -= even_bytes
        self.total_bytes -= even_bytes
        return even_bytes

    def _even_bytes(self) -> int:
        """Of what is left, for the model that comes now; the others give to one that was not
        announced."""
        if self._num_to_come <= 0:
            even_bytes = self.share_of_one_more()
            self._collect(even_bytes)
            return even_bytes
        even_bytes = self._unassigned_bytes // max(1, self._num_to_come)
        self._num_to_come -= 1
        return even_bytes

    def _collect(self, num_bytes: int) -> None:
        """Shrinks shares, the most generous first, until so much is unassigned."""
        for account in sorted(self.accounts, key=_spare_bytes, reverse=True):
            missing_bytes = num_bytes - self._unassigned_bytes
            if missing_bytes <= 0:
                return
            count = min(_spare(account), -(-missing_bytes // account.block_bytes))
            account.share -= count
            self._unassigned_bytes += count * account.block_bytes

    @property
    def free_bytes(self) -> int:
        backed = sum(account.pool.num_backed * account.block_bytes for account in self.accounts)
        return self.total_bytes - backed

    def reachable_bytes(self, account: Account) -> int:
        """What is free, and what others hold without using it: all but its own blocks and those
        that others use."""
        taken_bytes = 0
        for each in self.accounts:
            pool = each.pool
            num_taken = pool.num_backed if each is account else pool.num_used
            taken_bytes += num_taken * each.block_bytes
        return self.total_bytes - taken_bytes

    def make_room(self, account: Account) -> None:
        """Those most beyond their share give first; they give no block that is used."""
        others = [each for each in self.accounts if each is not account]
        for other in sorted(others, key=_excess_bytes, reverse=True):
            missing_bytes = account.block_bytes - self.free_bytes
            if missing_bytes <= 0:
                return
            other.release(other.pool.give_back(-(-missing_bytes // other.block_bytes)))


def _excess_bytes(account: Account) -> int:
    return (account.pool.num_backed - account.share) * account.block_bytes


def _spare(account: Account) -> int:
    """Blocks of its share that its longest sequence does not need."""
    return max(0, account.share - account.least)


def _spare_bytes(account: Account) -> int:
    return _spare(account) * account.block_bytes
