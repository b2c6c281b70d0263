"""The engine's end of the socket pair: frames in and out, without ever waiting for the reader."""

import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator

import msgspec

from shoal.protocol import codec
from shoal.protocol.messages import Alive, FromEngine, PromptPart, StepOutputs, ToEngine

_READ_BYTES = 1 << 18
_SEND_BUFFER_BYTES = 1 << 20
_PART_BYTES = 1 << 18
"""Log-probabilities of prompts that take more than this go in frames of about so many bytes."""
_TOKEN_BYTES, _ALTERNATIVE_BYTES = 32, 16
"""At most, of one prompt token's log-probability, and of each of its alternatives."""
_BEATS = 4
"""How often within `heartbeat_s` the thread looks whether the loop is silent."""


class ParentGoneError(Exception):
    """The other end of the socket is closed."""


class Link:
    """Frames over a non-blocking socket; what cannot be sent at once is kept and sent later."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._socket = connection
        self._frames = codec.FrameBuffer()
        self._unsent = bytearray()
        self._lock = threading.Lock()  # of `_unsent` and the socket's sending half
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ)
        self._awoken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._selector.register(self._awoken, selectors.EVENT_READ)
        self.last_sent_s = time.monotonic()

    @property
    def num_unsent_bytes(self) -> int:
        return len(self._unsent)

    def send(self, message: FromEngine) -> None:
        """Never waits. Raises ParentGoneError."""
        frame = codec.encode(message)
        with self._lock:
            self._unsent += frame
        self.last_sent_s = time.monotonic()
        self._flush()

    def send_step(self, outputs: StepOutputs) -> None:
        """The same, in several frames where one would be very long."""
        if not outputs.prompt_logprobs:
            self.send(outputs)
            return
        for message in in_parts(outputs):
            self.send(message)

    def receive(self, timeout_s: float | None) -> list[ToEngine]:
        """What has arrived, after at most `timeout_s` of waiting for the socket or `wake` (None =
        no limit); sends what was left to send. Raises ParentGoneError, FrameError."""
        messages: list[ToEngine] = []
        for key, events in self._selector.select(timeout_s):
            if key.fd == self._awoken:
                os.read(self._awoken, _READ_BYTES)
                self._flush()
                continue
            if events & selectors.EVENT_WRITE:
                self._flush()
            if events & selectors.EVENT_READ:
                for body in self._frames.feed(self._read()):
                    messages.append(codec.decode_to_engine(body))
        return messages

    def drain(self, timeout_s: float) -> None:
        """Before the end: waits until all is sent, but not longer than `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while self._unsent and (left_s := deadline - time.monotonic()) > 0:
            self._selector.select(left_s)
            self._flush()

    # --- for other threads -----------------------------------------------------------------------

    def wake(self) -> None:
        """Ends the wait of `receive`."""
        try:
            os.write(self._wake, b"w")
        except BlockingIOError:
            pass  # it will wake up in any case

    def beat(self, heartbeat_s: float) -> None:
        """For ever: says that the process is alive whenever the loop, in a long step, has sent
        nothing for longer than a heartbeat. Returns when the parent is gone."""
        while True:
            time.sleep(heartbeat_s / _BEATS)
            is_silent = time.monotonic() - self.last_sent_s > heartbeat_s * (1 + 1 / _BEATS)
            if is_silent and not self._unsent:  # else the parent has enough to read already
                try:
                    self._send_at_once(Alive())
                except OSError:
                    return

    def _send_at_once(self, message: FromEngine) -> None:
        frame = codec.encode(message)
        with self._lock:
            if self._unsent:
                return
            try:
                sent = self._socket.send(frame)
            except BlockingIOError:
                return
            self._unsent += frame[sent:]
        if sent < len(frame):
            self.wake()

    # --- the socket ------------------------------------------------------------------------------

    def _read(self) -> bytes:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ParentGoneError from error
        if not data:
            raise ParentGoneError
        return data

    def _flush(self) -> None:
        with self._lock:
            try:
                while self._unsent:
                    del self._unsent[: self._socket.send(memoryview(self._unsent)[:_READ_BYTES])]
            except BlockingIOError:
                pass  # the selector tells when there is room again
            except OSError as error:
                raise ParentGoneError from error
            write = selectors.EVENT_WRITE if self._unsent else 0
        self._selector.modify(self._socket, selectors.EVENT_READ | write)


def in_parts(outputs: StepOutputs) -> Iterator[PromptPart | StepOutputs]:
    """The outputs in messages that each fit a frame and are quick to read. All but the
    log-probabilities of whole prompts is short: those that are long go ahead, in parts."""
    left_bytes = _PART_BYTES
    kept = {}
    for seq_id, entries in outputs.prompt_logprobs.items():
        num_top = len(entries[-1].top_ids) if entries and entries[-1] is not None else 0
        entry_bytes = _TOKEN_BYTES + num_top * _ALTERNATIVE_BYTES
        if len(entries) * entry_bytes <= left_bytes:
            left_bytes -= len(entries) * entry_bytes
            kept[seq_id] = entries
            continue
        kept[seq_id] = []  # behind its parts
        length = max(1, _PART_BYTES // entry_bytes)
        for start in range(0, len(entries), length):
            yield PromptPart(seq_id, entries[start : start + length])
    yield msgspec.structs.replace(outputs, prompt_logprobs=kept)
