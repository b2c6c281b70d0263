"""A seeded mutator of bytes, and what it is let loose on.

A target is a function of bytes that returns, or raises an error of ours: anything else that comes
out of it is a fault.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shoal.client import ResponseInvalid
from shoal.client._stream import EventParser
from shoal.protocol import codec
from tests.faults import fuzz_targets
from tests.unit.protocol.test_codec import FROM_ENGINE, TO_ENGINE

Target = Callable[[bytes], object]
STREAMS = Path(__file__).parents[1] / "client" / "streams"
_EDGES = (
    b"\x00",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\r",
    b"\n\n",
    b'"',
    b"{",
    b"[",
    b"9" * 400,
    b"1e999",
    b"NaN",
    b"\\ud800",
    b"{{ ",
    b" }}",
    b"{% ",
    b" %}",
    b" * ",
    b"|tojson",
    b"range(10**9)",
    b"[" * 5000,
)
MAX_BYTES = 1 << 16


def frames(data: bytes) -> None:
    """Frames of the engine, both directions, in pieces."""
    buffer = codec.FrameBuffer()
    with contextlib.suppress(codec.FrameError):
        for start in range(0, len(data), 97):
            for body in buffer.feed(data[start : start + 97]):
                for decode in (codec.decode_to_engine, codec.decode_from_engine):
                    with contextlib.suppress(codec.FrameError):
                        decode(body)


def events(data: bytes) -> None:
    """The SDK's reader of streams, whole and in pieces."""
    try:
        whole = EventParser().feed(data)
        parser = EventParser()
        pieces = [e for i in range(0, len(data), 7) for e in parser.feed(data[i : i + 7])]
    except ResponseInvalid:
        return
    assert pieces == whole


TARGETS: dict[Target, list[bytes]] = {
    frames: [codec.encode(message) for message in (*TO_ENGINE, *FROM_ENGINE)],  # type: ignore[arg-type]
    events: [path.read_bytes() for path in sorted(STREAMS.glob("*.sse"))],
    **fuzz_targets.SEEDS,
}


def mutated(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few changes: bits, numbers, parts lost, doubled or exchanged."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(data) + 1)
        end = min(len(data), place + rng.choice((1, 2, 4, 8, 64, 512)))
        kind = rng.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:end] = rng.choice(_EDGES)
        elif kind == 2:
            del data[place:end]
        elif kind == 3:
            data[place:place] = data[place:end] * rng.choice((1, 2, 50))
        elif kind == 4:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[place:end] = other[start : start + rng.randrange(1, 200)]
        else:
            data[place:end] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data[:MAX_BYTES])


def inputs(
    seeds: list[bytes], seed: int, *, count: int = 0, seconds: float = 0.0
) -> Iterator[bytes]:
    """So many, or as many as the time allows; the seeds as they are come first."""
    yield from seeds
    rng, end, number = random.Random(seed), time.monotonic() + seconds, 0
    while number < count or time.monotonic() < end:
        yield mutated(rng, seeds)
        number += 1
