"""CPU time of the engine's steps."""

from collections.abc import Callable


class CpuMeter:
    """Gives each step what the whole process used since the step before it ended, or since there
    was work again: so steps add up to what work costs, and idle time belongs to none."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock`: CPU seconds of all threads of the process."""
        self._clock = clock
        self._since_s: float | None = None

    def begin(self) -> None:
        """There is work."""
        if self._since_s is None:
            self._since_s = self._clock()

    def take(self) -> float:
        """Seconds of the step that ends now."""
        now = self._clock()
        since, self._since_s = self._since_s, now
        return 0.0 if since is None else now - since

    def rest(self) -> None:
        """Nothing is left to do."""
        self._since_s = None
