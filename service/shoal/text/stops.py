"""Finds stop strings in a text that arrives in pieces, holding back half matches."""

from functools import lru_cache


class StopMatcher:
    """Stop strings of one sequence. The match that is complete first wins, among equals the
    longest: so the result does not depend on how the text was cut into pieces. The work for a
    character does not depend on how much is held back (Knuth, Morris and Pratt, 1977)."""

    __slots__ = ("_beginnings", "_borders", "_held", "_hidden", "_keep", "_matched", "_stops")

    def __init__(self, stops: tuple[str, ...], *, keep_match: bool = False) -> None:
        """`keep_match`: the matched text stays in the output."""
        self._stops = stops
        self._keep = keep_match
        self._beginnings = frozenset(stop[0] for stop in stops)
        self._borders = [_borders(stop) for stop in stops]
        self._matched = [0] * len(stops)
        """How much of each stop string the text ends with."""
        self._held = ""
        self._hidden: list[tuple[int, int]] = []
        """Start and end of what in the held text is never shown."""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is safe to show, stop string that matched). After a match, no more."""
        if not self._held and self._beginnings.isdisjoint(text):
            return text, None
        return self._add(text)

    def hide(self, text: str) -> tuple[str, str | None]:
        """Like `push`, of text that may match but is never shown: a hidden special token."""
        if not self._held and self._beginnings.isdisjoint(text):
            return "", None
        start = len(self._held)
        self._hidden.append((start, start + len(text)))
        return self._add(text)

    def flush(self) -> str:
        """What was held back and can no longer become a match."""
        return self._release(len(self._held))

    def _add(self, text: str) -> tuple[str, str | None]:
        start = len(self._held)
        self._held += text
        found = self._find(text)
        if found is None:
            return self._release(len(self._held) - max(self._matched)), None
        end, stop = start + found[0], found[1]
        shown = self._release(end if self._keep else end - len(stop))
        self._held, self._matched = "", [0] * len(self._stops)
        return shown, stop

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

    def _find(self, text: str) -> tuple[int, str] | None:
        """(end of the match in this new text, stop string)."""
        ends: list[tuple[int, int, str]] = []
        for index, stop in enumerate(self._stops):
            borders, matched = self._borders[index], self._matched[index]
            for at, char in enumerate(text, 1):
                while matched and stop[matched] != char:
                    matched = borders[matched - 1]
                if stop[matched] == char:
                    matched += 1
                    if matched == len(stop):
                        ends.append((at, -len(stop), stop))
                        break
            self._matched[index] = matched
        if not ends:
            return None
        end, _, stop = min(ends)
        return end, stop


@lru_cache(maxsize=256)
def _borders(stop: str) -> tuple[int, ...]:
    """For each beginning of a text, the longest shorter beginning that it ends with."""
    borders = [0]
    for char in stop[1:]:
        border = borders[-1]
        while border and stop[border] != char:
            border = borders[border - 1]
        borders.append(border + (stop[border] == char))
    return tuple(borders)
