"""Frames of the engine connection: 4-byte length, 1-byte version, msgpack body. Never pickle.

Both ends check length and version before decoding, and decoding checks every type, so a
corrupt or malicious frame raises an error and cannot create an unexpected object.
"""

from collections.abc import Iterator

import msgspec

from shoal.protocol.messages import FromEngine, ToEngine

VERSION = 1
MAX_FRAME_BYTES = 64 << 20
_HEADER_BYTES = 5

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


class FrameError(Exception):
    """The bytes are not a valid frame of this version, or the frame is too long."""


def encode(message: ToEngine | FromEngine) -> bytes:
    """Encodes one message as a frame. Raises FrameError when it is longer than MAX_FRAME_BYTES."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + bytes((VERSION,)) + body


def decode_to_engine(body: bytes | bytearray) -> ToEngine:
    """Decodes a message to the engine. Raises FrameError for anything else."""
    try:
        return _to_engine.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError(f"undecodable frame: {error}") from error


def decode_from_engine(body: bytes | bytearray) -> FromEngine:
    """Decodes a message from the engine. Raises FrameError for anything else."""
    try:
        return _from_engine.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FrameError(f"undecodable frame: {error}") from error


class FrameBuffer:
    """Splits a byte stream, received in arbitrary pieces, into frame bodies."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yields the bodies of all complete frames. Raises FrameError on a bad header."""
        self._bytes += data
        start = 0
        while len(self._bytes) - start >= _HEADER_BYTES:
            length = int.from_bytes(self._bytes[start : start + 4], "big")
            if self._bytes[start + 4] != VERSION:
                raise FrameError(f"frame version {self._bytes[start + 4]}, expected {VERSION}")
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
            end = start + _HEADER_BYTES + length
            if len(self._bytes) < end:
                break
            yield bytes(self._bytes[start + _HEADER_BYTES : end])
            start = end
        del self._bytes[:start]
