"""Limits per key: requests and tokens per minute, requests at the same time.

Token buckets: a full minute's worth may be used at once, then it comes back evenly. Output tokens
are counted when a request ends and may leave a debt.
"""

import math
import time
from collections.abc import Callable

from shoal.errors import RateLimited
from shoal.server.keys import Key, KeyLimits

_S_PER_MINUTE = 60.0


class Bucket:
    """So many per minute."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at = now

    def level(self, now: float) -> float:
        """What may be used now; below 0 after more was used than there was."""
        filled = self._level + (now - self._at) * self.per_minute / _S_PER_MINUTE
        self._level, self._at = min(float(self.per_minute), filled), now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Until so much may be used; of more than there ever is, until the bucket is full."""
        missing = min(amount, self.per_minute) - self.level(now)
        return max(0.0, missing * _S_PER_MINUTE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount


class KeyUse:
    """What one key has used."""

    def __init__(self, limits: KeyLimits, clock: Callable[[], float]) -> None:
        self.limits = limits
        self._clock = clock
        self._num_open = 0
        now = clock()
        self._requests = _bucket(limits.requests_per_minute, now)
        self._tokens = _bucket(limits.tokens_per_minute, now)

    def start(self) -> None:
        """A request begins; `done` ends it. Raises RateLimited."""
        now, limits = self._clock(), self.limits
        if limits.max_concurrent and self._num_open >= limits.max_concurrent:
            raise RateLimited(
                f"your key may have {limits.max_concurrent} requests at the same time",
                limit=limits.max_concurrent,
                retry_after_s=1.0,
            )
        if self._requests is not None and (wait_s := self._requests.wait_s(1, now)) > 0:
            raise RateLimited(
                f"your key may send {self._requests.per_minute} requests per minute",
                limit=self._requests.per_minute,
                retry_after_s=wait_s,
            )
        self._check_tokens(1, now)
        if self._requests is not None:
            self._requests.take(1, now)
        self._num_open += 1

    def take_prompt(self, num_tokens: int) -> None:
        """Raises RateLimited. A prompt of more than a minute's tokens needs the whole minute."""
        now = self._clock()
        self._check_tokens(num_tokens, now)
        self.take_output(num_tokens)

    def take_output(self, num_tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.take(num_tokens, self._clock())

    def done(self) -> None:
        self._num_open -= 1

    def give_back(self) -> None:
        """A request that began was refused for another reason: it does not count."""
        self._num_open -= 1
        if self._requests is not None:
            self._requests.take(-1, self._clock())

    def headers(self) -> dict[str, str]:
        """x-ratelimit-*, as OpenAI sends them."""
        now = self._clock()
        headers = {}
        for what, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                remaining = max(0, math.floor(bucket.level(now)))
                headers[f"x-ratelimit-limit-{what}"] = str(bucket.per_minute)
                headers[f"x-ratelimit-remaining-{what}"] = str(remaining)
                reset_s = bucket.wait_s(bucket.per_minute, now)
                headers[f"x-ratelimit-reset-{what}"] = duration(reset_s)
        return headers

    def _check_tokens(self, num_tokens: int, now: float) -> None:
        if self._tokens is not None and (wait_s := self._tokens.wait_s(num_tokens, now)) > 0:
            raise RateLimited(
                f"your key may use {self._tokens.per_minute} tokens per minute",
                limit=self._tokens.per_minute,
                retry_after_s=wait_s,
            )


class RateLimits:
    """What every key has used."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[bytes, KeyUse] = {}

    def of(self, key: Key) -> KeyUse:
        """A key whose limits changed starts afresh."""
        use = self._uses.get(key.digest)
        if use is None or use.limits != key.limits:
            use = self._uses[key.digest] = KeyUse(key.limits, self._clock)
        return use


def duration(seconds: float) -> str:
    """12ms, 8.64s or 6m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    shown = f"{rest:.2f}".rstrip("0").rstrip(".")
    return f"{minutes:.0f}m{shown}s" if minutes else f"{shown}s"


def _bucket(per_minute: int, now: float) -> Bucket | None:
    return Bucket(per_minute, now) if per_minute else None
