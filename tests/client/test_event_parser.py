"""The text/event-stream parser: any bytes, in any cut, give the events of the standard."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.client import ResponseInvalid
from shoal.client import _stream as stream_module
from shoal.client._stream import Event, EventParser

STREAMS = Path(__file__).parent / "streams"

CASES = [
    (b"data: a\n\n", [Event("a")]),
    (b"data:a\n\n", [Event("a")]),
    (b"data:  a \n\n", [Event(" a ")]),
    (b"data: a\ndata: b\n\n", [Event("a\nb")]),
    (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [Event("a"), Event("b"), Event("c")]),
    (b"data: a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
    (b"data: a\r\r\ndata: b\n\n", [Event("a"), Event("b")]),
    (b": ping\n\ndata: a\n\n", [Event("a")]),
    (b":\n:\n\n: x\ndata: a\n: y\n\n", [Event("a")]),
    (b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
    (b"event: only a name\n\ndata: a\n\n", [Event("a")]),
    (b"id: 1\nretry: 5\ndata: a\nother: x\n\n", [Event("a")]),
    (b"data\n\ndata:\n\ndata: a\n\n", [Event("a")]),
    (b"data\ndata\n\n", [Event("\n")]),
    (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    ("data: è🐟\n\n".encode(), [Event("è🐟")]),
    (b"data: \xff\n\n", [Event("\ufffd")]),
    ("data: a\u2028b\u2029c\u0085d\x0be\n\n".encode(), [Event("a\u2028b\u2029c\u0085d\x0be")]),
    (b"data: a:b: c\n\n", [Event("a:b: c")]),
    (b"data: cut\n", []),
    (b"data: cut", []),
    (b"\n\n\n", []),
    (b"", []),
]


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_events_are_those_of_the_standard(data: bytes, expected: list[Event]) -> None:
    assert EventParser().feed(data) == expected


@pytest.mark.parametrize(("data", "expected"), CASES)
def test_one_byte_at_a_time_gives_the_same_events(data: bytes, expected: list[Event]) -> None:
    assert _in_pieces([data[i : i + 1] for i in range(len(data))]) == expected


@pytest.mark.parametrize("path", sorted(STREAMS.glob("*.sse")), ids=lambda path: path.stem)
def test_every_cut_of_a_recorded_stream_gives_the_same_events(path: Path) -> None:
    data = path.read_bytes()
    whole = EventParser().feed(data)
    assert whole
    for cut in range(1, len(data)):
        assert _in_pieces([data[:cut], data[cut:]]) == whole


def test_line_ends_of_every_kind_are_the_same() -> None:
    lf, crlf, cr = ((STREAMS / f"{name}.sse").read_bytes() for name in ("completion", "crlf", "cr"))
    assert EventParser().feed(lf) == EventParser().feed(crlf) == EventParser().feed(cr)


@given(
    st.lists(st.sampled_from([b"data: a", b"data:\xc3\xa8", b": p", b"event: e", b"data", b"\r",
                              b"\n", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"\x00"])),
    st.lists(st.integers(0, 60)),
)  # fmt: skip
def test_no_cut_changes_the_events(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in pairwise(edges)]
    assert _in_pieces(pieces) == EventParser().feed(data)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    EventParser().feed(data)


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_EVENT_BYTES", 1000)
    line, event = b"x" * 100, b"data: " + b"x" * 100 + b"\n"
    for endless in (line, event):
        with pytest.raises(ResponseInvalid):
            _in_pieces([endless] * 100)
    # The limit is for one event, not for the stream.
    assert len(_in_pieces([event + b"\n"] * 100)) == 100


def _in_pieces(pieces: list[bytes]) -> list[Event]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]
