"""Finds stop strings in a text that arrives in pieces, holding back half matches."""


class StopMatcher:
    """Stop strings of one sequence. The match that is complete first wins, among equals the
    longest: so the result does not depend on how the text was cut into pieces."""

    __slots__ = ("_held", "_hidden", "_keep", "_stops")

    def __init__(self, stops: tuple[str, ...], *, keep_match: bool = False) -> None:
        """`keep_match`: the matched text stays in the output."""
        self._stops = stops
        self._keep = keep_match
        self._held = ""
        self._hidden: list[tuple[int, int]] = []
        """Start and end of what in the held text is never shown."""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is safe to show, stop string that matched). After a match, no more."""
        if not self._stops:
            return text, None
        self._held += text
        found = self._find()
        if found is None:
            safe = len(self._held) - self._longest_half_match()
            return self._release(safe), None
        start, stop = found
        shown = self._release(start + len(stop) if self._keep else start)
        self._held = ""
        return shown, stop

    def hide(self, text: str) -> tuple[str, str | None]:
        """Like `push`, of text that may match but is never shown: a hidden special token."""
        if not self._stops:
            return "", None
        start = len(self._held)
        self._hidden.append((start, start + len(text)))
        return self.push(text)

    def flush(self) -> str:
        """What was held back and can no longer become a match."""
        return self._release(len(self._held))

    def _release(self, end: int) -> str:
        """Takes the beginning of the held text; returns what of it is shown."""
        taken, self._held = self._held[:end], self._held[end:]
        if not self._hidden:
            return taken
        shown, at = "", 0
        for hidden_start, hidden_end in self._hidden:
            shown += taken[at:hidden_start]
            at = max(at, hidden_end)
        shown += taken[at:]
        self._hidden = [(max(a - end, 0), b - end) for a, b in self._hidden if b > end]
        return shown

    def _find(self) -> tuple[int, str] | None:
        hits = [
            (at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        if not hits:
            return None
        _, start, stop = min(hits)
        return start, stop

    def _longest_half_match(self) -> int:
        """Length of the longest end of the held text that begins some stop string."""
        held = self._held
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(held)), longest, -1):
                if stop.startswith(held[-length:]):
                    longest = length
                    break
        return longest
