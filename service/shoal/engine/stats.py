"""Speed of one model as a moving average over the time in which it had work."""

from math import exp

_WINDOW_S = 5.0
"""Older steps count less than 1/e."""


class SpeedMeter:
    """Tokens per second. Idle time does not count: this is what the model can do, and the HTTP
    side computes Retry-After from it."""

    def __init__(self, least_s: float = 0.0) -> None:
        """`least_s`: seconds of work before which nothing is known."""
        self._least_s = least_s
        self._tokens = 0.0
        self._seconds = 0.0
        self._waiting_since: float | None = None

    @property
    def tokens_per_s(self) -> float:
        return self._tokens / self._seconds if self._seconds > self._least_s else 0.0

    def record(self, num_tokens: int, start_s: float, end_s: float, *, has_more: bool) -> None:
        """One step. With `has_more` work left, the time until the next step counts too: the model
        is waiting then, for instance for another model's step."""
        since = start_s if self._waiting_since is None else self._waiting_since
        elapsed_s = max(end_s - since, 0.0)
        kept = exp(-elapsed_s / _WINDOW_S)
        self._tokens = self._tokens * kept + num_tokens
        self._seconds = self._seconds * kept + elapsed_s
        self._waiting_since = end_s if has_more else None
