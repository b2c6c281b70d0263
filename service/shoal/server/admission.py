"""Admission control: a request reserves capacity before any work and releases it when it ends.

A model admits `max_batch_size` running and `max_queue` waiting sequences. Requests beyond that are
rejected at once, with a Retry-After computed from the measured throughput.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from shoal.errors import InvalidRequest, RateLimited, Unavailable
from shoal.protocol.messages import EngineStats

DEFAULT_OUTPUT_TOKENS = 128.0
"""Assumed output length until a request has finished."""
UNKNOWN_WAIT_S = 2.0
MAX_WAIT_S = 120.0


@dataclass(slots=True)
class _Load:
    """The load admitted to one model."""

    sequences: int = 0
    waiting_tokens: int = 0
    by_tenant: Counter[str] = field(default_factory=Counter)
    mean_output: float = DEFAULT_OUTPUT_TOKENS


class Admission:
    """Counts admitted sequences and waiting prompt tokens per model and tenant."""

    def __init__(
        self,
        stats: Mapping[str, EngineStats],
        *,
        max_batch_size: int,
        max_queue: int,
        max_queue_tokens: int,
        tenant_max_queue: int,
    ) -> None:
        """`stats` is a live view of the engine's statistics."""
        self._stats = stats
        self._max_sequences = max_batch_size + max_queue
        self._max_batch_size = max_batch_size
        self._max_queue_tokens = max_queue_tokens
        self._tenant_max = tenant_max_queue
        self._loads: dict[str, _Load] = {}

    def reserve(self, model: str, tenant: str, num_sequences: int) -> "Reservation":
        """Reserves capacity for a request. Raises Unavailable (server full), RateLimited (tenant
        limit reached) or InvalidRequest (one request exceeds the tenant limit)."""
        load = self._loads.setdefault(model, _Load())
        if self._tenant_max and num_sequences > self._tenant_max:
            raise InvalidRequest(
                f"the request asks for {num_sequences} sequences; you may have "
                f"{self._tenant_max} in flight on this model",
                param="n",
            )
        if self._tenant_max and load.by_tenant[tenant] + num_sequences > self._tenant_max:
            raise RateLimited(
                f"you may have {self._tenant_max} sequences in flight on this model",
                limit=self._tenant_max,
                code="tenant_queue_full",
                retry_after_s=self._wait_s(model, load),
            )
        over = load.sequences + num_sequences > self._max_sequences
        if over and load.sequences > 0:  # an idle model admits a request of any permitted size
            raise self._overloaded(model, load)
        load.sequences += num_sequences
        load.by_tenant[tenant] += num_sequences
        return Reservation(self, model, tenant, num_sequences)

    def in_flight(self, model: str) -> int:
        """Sequences admitted and not yet released."""
        return self._loads[model].sequences if model in self._loads else 0

    def expected_wait_s(self, model: str) -> float:
        """Seconds a new request would wait to start; 0 if the batch has room."""
        load = self._loads.get(model)
        if load is None or load.sequences <= self._max_batch_size:
            return 0.0
        return self._wait_s(model, load)

    def _overloaded(self, model: str, load: _Load) -> Unavailable:
        return Unavailable(
            "the server is at capacity; try again later",
            retry_after_s=self._wait_s(model, load),
        )

    def _wait_s(self, model: str, load: _Load) -> float:
        """Tokens ahead in the queue divided by the measured throughput."""
        stats = self._stats.get(model)
        if stats is None or stats.tokens_per_s <= 0:
            return UNKNOWN_WAIT_S
        waiting = max(0, load.sequences - self._max_batch_size)
        tokens_ahead = load.waiting_tokens + max(1, waiting) * load.mean_output
        return min(MAX_WAIT_S, tokens_ahead / stats.tokens_per_s)

    # --- called by reservations ----------------------------------------------------------------

    def add_tokens(self, reservation: "Reservation", num_tokens: int) -> None:
        load = self._loads[reservation.model]
        over = load.waiting_tokens + num_tokens > self._max_queue_tokens
        if (
            over and load.waiting_tokens > 0
        ):  # an empty queue accepts any prompt that fits the context
            raise self._overloaded(reservation.model, load)
        load.waiting_tokens += num_tokens

    def remove_tokens(self, reservation: "Reservation", num_tokens: int) -> None:
        self._loads[reservation.model].waiting_tokens -= num_tokens

    def release(self, reservation: "Reservation", output_tokens: int | None) -> None:
        load = self._loads[reservation.model]
        load.sequences -= reservation.num_sequences
        load.by_tenant[reservation.tenant] -= reservation.num_sequences
        if load.by_tenant[reservation.tenant] <= 0:
            del load.by_tenant[reservation.tenant]
        if output_tokens is not None:
            mean = output_tokens / reservation.num_sequences
            load.mean_output += 0.1 * (mean - load.mean_output)


class Reservation:
    """The capacity reserved by one request; a context manager that releases it once."""

    def __init__(self, admission: Admission, model: str, tenant: str, num_sequences: int) -> None:
        self._admission = admission
        self._waiting_tokens = 0
        self._released = False
        self.model = model
        self.tenant = tenant
        self.num_sequences = num_sequences

    def add_tokens(self, num_tokens: int) -> None:
        """Adds the prompt to the waiting tokens. Raises Unavailable when too many are waiting."""
        self._admission.add_tokens(self, num_tokens)
        self._waiting_tokens += num_tokens

    def started(self) -> None:
        """Removes the prompt from the waiting tokens. Idempotent."""
        self._admission.remove_tokens(self, self._waiting_tokens)
        self._waiting_tokens = 0

    def release(self, output_tokens: int | None = None) -> None:
        """Releases the capacity. Idempotent. `output_tokens` of a completed request updates the
        wait estimate."""
        if not self._released:
            self._released = True
            self.started()
            self._admission.release(self, output_tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def jittered(wait_s: float) -> float:
    """Varies the wait by up to 20 %, so that clients do not all retry at the same time."""
    return min(MAX_WAIT_S, max(0.05, wait_s * random.uniform(0.8, 1.2)))
