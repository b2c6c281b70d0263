"""Where a sequence is in free text (`free_text.py`), as far as it matters to what may follow."""

from collections.abc import Iterable

from shoal.sampling.free_text import FreeText
from shoal.sampling.lead_text import Lead, LeadText
from shoal.sampling.places import KnownText, content_of, string_in


class InText:
    """Behind a place, and plain text that the matcher was not told."""

    __slots__ = ("_free_text", "_heard", "_is_at_place", "stays", "string", "untold", "waits")

    def __init__(self, free_text: FreeText) -> None:
        self._free_text = free_text
        self.string: str | None = None
        """What there is of it without what is untold, where it is known."""
        self.waits = free_text.steady_after
        """After more characters than these the text may be steady; below 0: it is."""
        self.stays = -1
        """In text that is not steady: so many more leave what may follow the same; below 0: it is
        not what it was."""
        self.untold: list[int] = []
        """Accepted; the matcher will be told."""
        self._is_at_place = False
        self._heard = b""  # since there was text

    def begin(self, string: str | None) -> None:
        """At a place."""
        waits, stays = self._free_text.waits(string), self._free_text.stays(string)
        self.arrive(KnownText(string, waits, stays))

    def begin_unknown(self) -> None:
        """Where no place knows the string: behind what was heard."""
        string = string_in(self._heard)
        if string is None and self.string is not None and self._heard:
            more = content_of(self._heard)
            string = None if more is None else self.string + more
        self.begin(string)

    def hear(self, token_id: int) -> None:
        """One that is not plain."""
        if self._free_text.lengths:
            self._heard += self._free_text.token_bytes[token_id]

    def hear_unknown(self) -> None:
        """Others follow."""
        self.string, self._heard = None, b""

    def arrive(self, text: KnownText) -> None:
        """As another did at a place."""
        self.string, self.waits, self.stays = text
        self._is_at_place = True
        self._heard = b""

    def add(self, token_ids: list[int]) -> None:
        """Of text that is not steady."""
        num_chars = self._num_chars(token_ids)
        self.untold += token_ids
        self.waits -= num_chars
        self.stays -= num_chars
        if self.waits < 0:
            self.waits = self._waits(self.untold)

    def waits_behind(self, token_ids: list[int]) -> int:
        """`waits` behind these, where nothing is untold."""
        waits = self.waits - self._num_chars(token_ids)
        return waits if waits >= 0 else self._waits(token_ids)

    def not_steady_behind(self, string: str | None) -> list[int] | None:
        """See `FreeText`."""
        return self._free_text.not_steady_behind(string)

    def look_ahead(self) -> None:
        """What may follow is known anew."""
        if self.stays < 0 <= self.waits:
            string = self.string
            if string is not None:
                string += self._free_text.text(self.untold)
            self.stays = self._free_text.stays(string)
            self._is_at_place = False

    def until_look(self, *, is_mask_known: bool) -> int:
        """After more characters than these something may change; below 0: nothing ever. A mask
        that is known stays what it is until then."""
        if self.waits < 0 or not is_mask_known:
            return self.waits
        return max(min(self.waits, self.stays), 0)

    @property
    def known(self) -> KnownText:
        return KnownText(self.string, self.waits, self.stays)

    @property
    def is_as_at_place(self) -> bool:
        """May the same follow as at the place where it began?"""
        return not self.untold or (self._is_at_place and self.stays >= 0)

    def tell(self) -> list[int]:
        """What is untold; it will be told."""
        untold, self.untold = self.untold, []
        if self.string is not None:
            self.string += self._free_text.text(untold)
        return untold

    def _num_chars(self, token_ids: list[int]) -> int:
        return sum(map(self._free_text.num_chars.__getitem__, token_ids))

    def _waits(self, token_ids: list[int]) -> int:
        """Behind so many of these that a string that is not known is steady."""
        if self.string is None:
            return -1
        return self._free_text.waits(self.string + self._free_text.text(token_ids))


def text_of(
    free_text: FreeText | LeadText | None, num_token_ids: int, end_ids: Iterable[int]
) -> tuple[FreeText, Lead | None]:
    """Of a sequence under a grammar that may have such text: none where a token of it would end the
    sequence. `Lead`: where it has text before calls."""
    if free_text is None or any(free_text.num_chars[i] for i in end_ids):
        return FreeText(bytes(num_token_ids), []), None
    if isinstance(free_text, LeadText):
        return FreeText(free_text.num_chars, []), Lead(free_text)
    return free_text, None
