"""Whose turn it is among the models that share the processor.

Fair by compute time used, like a fair-share scheduler of an operating system. Knows model
names and seconds, nothing of their sequences.
"""


class Arbiter:
    """Picks the ready model that has used the least compute time."""

    def __init__(self, models: list[str]) -> None:
        self._used_s = dict.fromkeys(models, 0.0)
        self._last_turn = dict.fromkeys(models, 0)
        self._ready: set[str] = set()
        self._turn = 0

    def add(self, model: str) -> None:
        """One more model to choose among."""
        self._used_s[model] = 0.0
        self._last_turn[model] = 0

    def remove(self, model: str) -> None:
        """It is not chosen any more."""
        del self._used_s[model], self._last_turn[model]
        self._ready.discard(model)

    def pick(self, ready: list[str]) -> str:
        """The model to step now; `ready` are those with work, at least one.

        A model that was idle starts level with the least served of the busy ones: idle time
        earns no credit, so it cannot shut out the others. Having run longest ago it is picked
        first, so it waits for one step at most.
        """
        busy_s = [self._used_s[name] for name in ready if name in self._ready]
        if not busy_s:  # nobody competed until now: no old debts
            self._used_s = dict.fromkeys(self._used_s, 0.0)
        for name in ready:
            if name not in self._ready:
                self._used_s[name] = max(self._used_s[name], min(busy_s, default=0.0))
        self._ready = set(ready)
        self._turn += 1
        picked = min(ready, key=lambda name: (self._used_s[name], self._last_turn[name]))
        self._last_turn[picked] = self._turn
        return picked

    def charge(self, model: str, seconds: float) -> None:
        """`model` computed for so long."""
        self._used_s[model] += seconds
