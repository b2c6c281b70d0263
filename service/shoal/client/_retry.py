"""When to send a request again, and how long to wait before.

Only computes: time and random numbers come from a `Clock`, and nothing here sleeps or sends.
"""

from __future__ import annotations

import math
import random
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from ._errors import ConnectionFailed, Error, StatusError, Timeout

RETRIED_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504})

MAX_WAIT_S = 120.0  # if the server asks for more, the call fails instead of waiting
_BACKOFF_BASE_S = 0.5
_BACKOFF_CAP_S = 8.0


@dataclass(frozen=True)
class Clock:
    """Where the SDK gets time and random numbers from; tests pass one that they control.

    Without a `sleep`, the client blocks its thread and the async client waits in its event loop.
    """

    monotonic: Callable[[], float] = time.monotonic  # seconds that never go backwards
    wall: Callable[[], float] = time.time  # seconds since 1970, for a `Retry-After` with a date
    random: Callable[[], float] = random.random  # uniform in [0, 1)
    sleep: Callable[[float], None] | None = None


def retry_after_s(headers: Mapping[str, str], clock: Clock) -> float | None:
    """Seconds the server asks to wait: `retry-after-ms`, else `Retry-After`; None = not said."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return _seconds_until(value, clock) if seconds is None else seconds


def backoff_s(num_retries: int, clock: Clock) -> float:
    """Full jitter in [0, min(8 s, 0.5 s · 2^k)] (Brooker, "Exponential Backoff And Jitter")."""
    ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(num_retries, 16))
    return clock.random() * ceiling


def wait_before_retry_s(
    error: Error, headers: Mapping[str, str], num_retries: int, clock: Clock
) -> float | None:
    """Seconds to wait before sending again; None = do not send again.

    `headers` are those of the response, empty if there was none.
    """
    if isinstance(error, StatusError):
        said = headers.get("x-should-retry", "").strip().lower()
        if said == "false" or (said != "true" and error.status not in RETRIED_STATUSES):
            return None
        asked_s = retry_after_s(headers, clock)
        if asked_s is not None:
            return asked_s if asked_s <= MAX_WAIT_S else None
    # A timeout while waiting for the response is not retried: the server may still be working
    # on the request, and a second one would double its load.
    elif not isinstance(error, ConnectionFailed) and not _is_connect_timeout(error):
        return None
    return backoff_s(num_retries, clock)


def _is_connect_timeout(error: Error) -> bool:
    return isinstance(error, Timeout) and error.phase == "connect"


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(value: str | None, clock: Clock) -> float | None:
    try:
        date = parsedate_to_datetime(value or "")
    except (TypeError, ValueError, OverflowError):
        return None
    # A date without a zone ("-0000") is in UTC, as utctimetuple takes it.
    return max(0.0, timegm(date.utctimetuple()) - clock.wall())
