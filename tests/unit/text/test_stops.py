"""The stop matcher finds in pieces what a search of the whole text finds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.text.stops import StopMatcher

FEW = st.text(alphabet="abc", max_size=30)  # few letters: many matches and half matches
STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), min_size=1, max_size=4)


def expected(text: str, stops: list[str], *, keep: bool) -> tuple[str, str | None]:
    """What the caller sees and the stop that ended it, given the whole text.

    A stop can only be seen when its last character is there; of those seen first, the earliest
    start wins, then the longest."""
    for end in range(1, len(text) + 1):
        hits = [
            (text.find(stop, 0, end), -len(stop), stop)
            for stop in stops
            if text.find(stop, 0, end) >= 0
        ]
        if hits:
            start, _, stop = min(hits)
            return text[: start + len(stop) if keep else start], stop
    return text, None


def matched(pieces: list[str], stops: list[str], *, keep: bool) -> tuple[str, str | None]:
    matcher = StopMatcher(tuple(stops), keep_match=keep)
    shown = ""
    for piece in pieces:
        more, stop = matcher.push(piece)
        shown += more
        if stop is not None:
            return shown, stop
    return shown + matcher.flush(), None


@settings(deadline=None)
@given(FEW, STOPS, st.booleans())
def test_character_by_character_equals_the_search(text: str, stops: list[str], keep: bool) -> None:
    assert matched(list(text), stops, keep=keep) == expected(text, stops, keep=keep)


@settings(deadline=None)
@given(FEW, STOPS, st.booleans(), st.data())
def test_every_chunking_gives_the_same_result(
    text: str, stops: list[str], keep: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert matched(pieces, stops, keep=keep) == expected(text, stops, keep=keep)


@settings(deadline=None)
@given(FEW, STOPS)
def test_text_once_shown_is_never_taken_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(tuple(stops))
    shown = ""
    for char in text:
        more, stop = matcher.push(char)
        shown += more
        assert not any(word in shown for word in stops)
        if stop is not None:
            break


@pytest.mark.parametrize(
    ("text", "stops", "shown", "stop"),
    [
        ("one END two", ["END"], "one ", "END"),
        ("ababc", ["abc"], "ab", "abc"),
        ("abc", ["c", "b"], "a", "b"),
        ("xaby", ["ab", "a"], "x", "a"),
        ("aXb", ["XYZ"], "aXb", None),
        ("日本語。次", ["。"], "日本語", "。"),
        ("", ["a"], "", None),
    ],
)
def test_known_cases(text: str, stops: list[str], shown: str, stop: str | None) -> None:
    assert matched(list(text), stops, keep=False) == (shown, stop)


def test_nothing_is_held_back_without_stops() -> None:
    assert StopMatcher(()).push("abc") == ("abc", None)


def test_only_what_may_become_a_match_is_held_back() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.push("the EN") == ("the ", None)
    assert matcher.push("T") == ("ENT", None)
    assert matcher.flush() == ""


PIECES = st.lists(st.tuples(st.text(alphabet="ab<", max_size=3), st.booleans()), max_size=10)
HIDDEN_STOPS = st.lists(st.text(alphabet="ab<", min_size=1, max_size=4), min_size=1, max_size=3)


@settings(deadline=None)
@given(PIECES, HIDDEN_STOPS, st.booleans())
def test_hidden_text_is_matched_and_never_shown(
    pieces: list[tuple[str, bool]], stops: list[str], keep: bool
) -> None:
    """The same stop at the same place as if all were shown; of the text before it, what is
    visible."""
    matcher = StopMatcher(tuple(stops), keep_match=keep)
    shown, stop = "", None
    for text, is_hidden in pieces:
        more, stop = matcher.hide(text) if is_hidden else matcher.push(text)
        shown += more
        if stop is not None:
            break
    else:
        shown += matcher.flush()
    everything = "".join(text for text, _ in pieces)
    taken, expected_stop = expected(everything, stops, keep=keep)
    is_visible = [not hidden for text, hidden in pieces for _ in text]
    visible = "".join(char for char, seen in zip(taken, is_visible, strict=False) if seen)
    assert (shown, stop) == (visible, expected_stop)


def test_nothing_hidden_is_shown_without_stops() -> None:
    assert StopMatcher(()).hide("</s>") == ("", None)


def test_a_long_half_match_costs_other_stop_strings_nothing() -> None:
    """Counted, not timed: how often a character of a stop string is looked at."""
    looks = 0

    class Counted(str):
        def __getitem__(self, key: object) -> str:
            nonlocal looks
            looks += 1
            return str.__getitem__(self, key)  # type: ignore[index]

    stops = tuple(Counted("b" * (990 - i)) for i in range(31))
    matcher = StopMatcher((*stops, "a" * 1000))
    looks = 0
    for _ in range(999):
        assert matcher.push("a") == ("", None)
    assert looks <= 31 * 999 * 2
    assert matcher.push("b") == ("a" * 999, None)
    assert matcher.flush() == "b"
