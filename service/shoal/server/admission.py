"""Admission control: a request reserves capacity before any work and releases it when it ends.

A model has places for `max_batch_size` running and `max_queue` waiting sequences. Alone a tenant
may take them all; beside others what eight ninths of theirs leave, so whoever floods the
queue leaves room for others, and all converge to equal shares. An even share is anybody's in any
case: for it a full queue grows to twice its places. Requests beyond that are rejected at once, with
a Retry-After computed from the measured throughput, and so are those that would wait too long.
"""

import math
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from shoal.errors import InvalidRequest, RateLimited, ShoalError, Unavailable
from shoal.protocol.messages import EngineStats
from shoal.server.keys import ANYONE, Key
from shoal.server.rate_limits import KeyUse, RateLimits

DEFAULT_OUTPUT_TOKENS = 128.0
"""Assumed output length until a request has finished."""
UNKNOWN_WAIT_S = 2.0
MAX_WAIT_S = 120.0
_SURE_PART = 0.9
"""Of the longest wait: what is expected is sometimes exceeded."""
_OTHERS_PART = 8 / 9
"""Of n tenants that flood a queue of P places each gets P / (1 + 8/9 (n - 1)), together at most
9/8 P; the one that comes first alone gets P and leaves P / 9 to the next."""


@dataclass(slots=True)
class _Held:
    """What one tenant has of a model."""

    weight: float
    sequences: int = 0
    waiting_tokens: int = 0


@dataclass(slots=True)
class _Load:
    """The load admitted to one model."""

    sequences: int = 0
    waiting_tokens: int = 0
    by_tenant: dict[str, _Held] = field(default_factory=dict)
    mean_output: float = DEFAULT_OUTPUT_TOKENS
    num_finished: int = 0
    """Requests that `mean_output` was learned from."""

    def num_tenants_with(self, tenant: str) -> int:
        """Those that have something, and this one."""
        return len(self.by_tenant) + (tenant not in self.by_tenant)

    def held_by(self, tenant: str) -> _Held:
        return self.by_tenant.get(tenant) or _Held(1.0)


class Admission:
    """Counts admitted sequences and waiting prompt tokens per model and tenant, and what each key
    uses."""

    def __init__(
        self,
        stats: Mapping[str, EngineStats],
        *,
        max_batch_size: int,
        max_queue: int,
        max_queue_tokens: int,
        tenant_max_queue: int,
        max_wait_s: float = math.inf,
        rate_limits: RateLimits | None = None,
    ) -> None:
        """`stats` is a live view of the engine's statistics. `max_wait_s`: what is expected to wait
        longer is refused, once it is known how fast a full batch is."""
        self._stats = stats
        self._max_sequences = max_batch_size + max_queue
        self._max_batch_size = max_batch_size
        self._max_queue_tokens = max_queue_tokens
        self._tenant_max = tenant_max_queue
        self._max_wait_s = max_wait_s
        self._loads: dict[str, _Load] = {}
        self.rate_limits = rate_limits or RateLimits()
        self.refused_s = -math.inf
        """When it last refused a request, on the monotonic clock."""

    def reserve(
        self, model: str, tenant: str, num_sequences: int, key: Key = ANYONE
    ) -> "Reservation":
        """Reserves capacity for a request of this key. Raises Unavailable (server full),
        RateLimited (a limit of the key or tenant) or InvalidRequest (one request exceeds the
        tenant's limit)."""
        load = self._loads.setdefault(model, _Load())
        use = self.rate_limits.of(key)
        use.start()
        try:
            self._check(model, load, tenant, num_sequences, key)
        except BaseException:
            use.give_back()
            self.refused_s = time.monotonic()
            raise
        held = load.by_tenant.setdefault(tenant, _Held(key.weight))
        held.weight = key.weight
        held.sequences += num_sequences
        load.sequences += num_sequences
        return Reservation(self, model, tenant, num_sequences, use)

    def refusal(self, model: str, tenant: str, key: Key) -> ShoalError | None:
        """Why `reserve` would refuse one sequence now; None where it would not."""
        try:
            self._check(model, self._loads.setdefault(model, _Load()), tenant, 1, key)
        except (Unavailable, RateLimited) as error:
            self.refused_s = time.monotonic()
            return error
        return None

    def _check(self, model: str, load: _Load, tenant: str, num_sequences: int, key: Key) -> None:
        self._check_tenant(model, load, tenant, num_sequences, key)
        self._check_room(model, load, tenant, num_sequences)
        self._check_wait(model, load, tenant, key)

    def _check_tenant(
        self, model: str, load: _Load, tenant: str, num_sequences: int, key: Key
    ) -> None:
        limit = key.limits.max_queue or self._tenant_max
        if not limit:
            return
        if num_sequences > limit:
            raise InvalidRequest(
                f"the request asks for {num_sequences} sequences; you may have "
                f"{limit} in flight on this model",
                param="n",
            )
        if load.held_by(tenant).sequences + num_sequences > limit:
            raise self._tenant_queue_full(model, load, tenant, limit)

    def _check_room(self, model: str, load: _Load, tenant: str, num_sequences: int) -> None:
        mine = load.held_by(tenant).sequences
        room = self._max_sequences - _OTHERS_PART * (load.sequences - mine)
        if mine + num_sequences <= room or load.sequences == 0:
            return  # an idle model admits a request of any permitted size
        num_tenants = load.num_tenants_with(tenant)
        share = max(1, self._max_sequences // num_tenants)
        if mine + num_sequences <= share and load.sequences < 2 * self._max_sequences:
            return
        if num_tenants > 1 and mine * num_tenants >= self._max_sequences:
            raise self._tenant_queue_full(model, load, tenant, mine)
        raise self._overloaded(model, load, tenant)

    def _check_wait(self, model: str, load: _Load, tenant: str, key: Key) -> None:
        """A speed that was measured without a queue is that of a few rows: it says nothing."""
        stats = self._stats.get(model)
        if stats is None or not stats.queue_tokens_per_s:
            return
        if self.expected_wait_s(model, tenant, key) > _SURE_PART * self._max_wait_s:
            raise self._overloaded(model, load, tenant)

    def in_flight(self, model: str) -> int:
        """Sequences admitted and not yet released."""
        return self._loads[model].sequences if model in self._loads else 0

    def expected_wait_s(self, model: str, tenant: str, key: Key = ANYONE) -> float:
        """Seconds a new request would wait to start; 0 if a row is free for it, or nothing has been
        measured yet."""
        load = self._loads.get(model)
        if load is None or self._speed(model) <= 0:
            return 0.0
        if load.held_by(tenant).sequences < self._rows_of(load, tenant, key.weight):
            return 0.0
        return self._wait_s(model, load, tenant)

    def _rows_of(self, load: _Load, tenant: str, weight: float) -> float:
        """Rows a tenant gets: its share, or all that others leave."""
        others = [held for name, held in load.by_tenant.items() if name != tenant]
        left = self._max_batch_size - sum(held.sequences for held in others)
        share = weight / (weight + sum(held.weight for held in others))
        return max(1.0, left, share * self._max_batch_size)

    def _speed(self, model: str) -> float:
        stats = self._stats.get(model)
        return stats.queue_tokens_per_s or stats.tokens_per_s if stats is not None else 0.0

    def _wait_s(self, model: str, load: _Load, tenant: str) -> float:
        """The tenant's tokens ahead in the queue divided by its part of the measured throughput."""
        if (speed := self._speed(model)) <= 0:
            return UNKNOWN_WAIT_S
        held = load.held_by(tenant)
        rows = self._rows_of(load, tenant, held.weight)
        waiting = max(1.0, held.sequences - rows)
        tokens_ahead = held.waiting_tokens + waiting * load.mean_output
        part = min(1.0, rows / self._max_batch_size)
        return min(MAX_WAIT_S, tokens_ahead / (speed * part))

    def _overloaded(self, model: str, load: _Load, tenant: str) -> Unavailable:
        return Unavailable(
            "the server is at capacity; try again later",
            retry_after_s=self._wait_s(model, load, tenant),
        )

    def _tenant_queue_full(self, model: str, load: _Load, tenant: str, limit: int) -> RateLimited:
        return RateLimited(
            f"you may have {limit} sequences in flight on this model now",
            limit=limit,
            code="tenant_queue_full",
            retry_after_s=self._wait_s(model, load, tenant),
        )

    # --- called by reservations ----------------------------------------------------------------

    def add_tokens(self, reservation: "Reservation", num_tokens: int) -> None:
        load, tenant = self._loads[reservation.model], reservation.tenant
        held = load.by_tenant[tenant]
        others = load.waiting_tokens - held.waiting_tokens
        room = self._max_queue_tokens - _OTHERS_PART * others
        share = self._max_queue_tokens // load.num_tenants_with(tenant)
        has_share = load.waiting_tokens < 2 * self._max_queue_tokens
        has_share = has_share and held.waiting_tokens + num_tokens <= share
        # An empty queue accepts any prompt that fits the context.
        if held.waiting_tokens + num_tokens > room and load.waiting_tokens > 0 and not has_share:
            raise self._overloaded(reservation.model, load, tenant)
        reservation.use.take_prompt(num_tokens)
        held.waiting_tokens += num_tokens
        load.waiting_tokens += num_tokens

    def remove_tokens(self, reservation: "Reservation", num_tokens: int) -> None:
        load = self._loads[reservation.model]
        load.waiting_tokens -= num_tokens
        if (held := load.by_tenant.get(reservation.tenant)) is not None:
            held.waiting_tokens -= num_tokens

    def release(self, reservation: "Reservation", output_tokens: int | None) -> None:
        load = self._loads[reservation.model]
        load.sequences -= reservation.num_sequences
        held = load.by_tenant[reservation.tenant]
        held.sequences -= reservation.num_sequences
        if held.sequences <= 0:
            del load.by_tenant[reservation.tenant]
        reservation.use.done()
        if output_tokens is not None:
            mean = output_tokens / reservation.num_sequences
            load.num_finished += 1
            load.mean_output += max(0.1, 1 / load.num_finished) * (mean - load.mean_output)


class Reservation:
    """The capacity reserved by one request; a context manager that releases it once."""

    def __init__(
        self, admission: Admission, model: str, tenant: str, num_sequences: int, use: KeyUse
    ) -> None:
        self._admission = admission
        self._waiting_tokens = 0
        self._released = False
        self.model = model
        self.tenant = tenant
        self.num_sequences = num_sequences
        self.use = use
        """Of the request's key."""

    def add_tokens(self, num_tokens: int) -> None:
        """Adds the prompt to the waiting tokens. Raises Unavailable when too many are waiting,
        RateLimited when the key may not use so many now."""
        self._admission.add_tokens(self, num_tokens)
        self._waiting_tokens += num_tokens

    def started(self) -> None:
        """Removes the prompt from the waiting tokens. Idempotent."""
        self._admission.remove_tokens(self, self._waiting_tokens)
        self._waiting_tokens = 0

    def release(self, output_tokens: int | None = None, *, completed: bool = True) -> None:
        """Releases the capacity. Idempotent. The key's limits count `output_tokens`; those of a
        completed request also update the wait estimate."""
        if not self._released:
            self._released = True
            self.started()
            self.use.take_output(output_tokens or 0)
            self._admission.release(self, output_tokens if completed else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def jittered(wait_s: float) -> float:
    """Varies the wait by up to 20 %, so that clients do not all retry at the same time."""
    return min(MAX_WAIT_S, max(0.05, wait_s * random.uniform(0.8, 1.2)))
