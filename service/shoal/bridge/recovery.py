"""What an engine was given and has not finished: run again after a crash, or never again.

A sequence that had produced nothing when the engine ended is given to the next one, once. These go
one after the other, each when the one before has its first token: if one of them ends the engine
again, it was alone. What was with the engine at two ends is refused, and so is what looks the same
for a while: one bad request that is sent again and again must not end the server.

All calls happen on the event loop's thread.
"""

import hashlib
import logging
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from shoal.errors import EngineRestarted, PoisonRequest, RequestTimeout, ShoalError
from shoal.protocol.messages import StepOutputs, Submit

log = logging.getLogger("shoal.engine")

MAX_CRASHES = 2
"""What was with the engine at so many ends is not run again."""
MAX_HELD_S = 30.0
"""A sequence waits at most so long for the next engine."""
REMEMBERED_S = 300.0
"""As long as the supervisor counts crashes."""
_MAX_SUSPECTS = 1024


@dataclass(slots=True)
class _Open:
    """One sequence without an end."""

    submit: Submit
    sent_s: float
    has_output: bool = False
    num_crashes: int = 0
    is_held: bool = False
    """The next engine does not have it yet."""


class Recovery:
    """The open sequences of one engine client."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, monotonic."""
        self._clock = clock
        self._open: dict[int, _Open] = {}
        self._held: list[int] = []  # in the order of arrival
        self._resent: dict[str, int] = {}  # model -> the one that is to start before the next
        self._suspects: dict[bytes, tuple[int, float]] = {}  # crashes, and when it was the last

    def submitted(self, submit: Submit) -> None:
        """The engine is about to get it. Raises PoisonRequest for what ended it before."""
        if self._is_refused(submit):
            raise poison_request()
        self._open[submit.seq_id] = _Open(submit, self._clock())

    def heard(self, outputs: StepOutputs) -> bool:
        """What started or finished; is it now another one's turn?"""
        is_turn = False
        for seq_id in outputs.started:
            if (entry := self._open.get(seq_id)) is not None:
                entry.has_output = True
                is_turn |= self._gone(entry)
        for seq_id, finished in outputs.finished.items():
            if (entry := self._open.pop(seq_id, None)) is not None:
                is_turn |= self._gone(entry)
                if self._suspects and finished.error_code is None:
                    self._suspects.pop(digest_of(entry.submit), None)
        return is_turn

    def drop(self, seq_ids: Iterable[int]) -> bool:
        """The client wants these no more; is it now another one's turn?"""
        is_turn = False
        for seq_id in seq_ids:
            if (entry := self._open.pop(seq_id, None)) is not None:
                is_turn |= self._gone(entry)
                if entry.is_held:
                    self._held.remove(seq_id)
        return is_turn

    def _gone(self, entry: _Open) -> bool:
        """It holds up the next one no more; did it?"""
        model = entry.submit.model
        if self._resent.get(model) != entry.submit.seq_id:
            return False
        del self._resent[model]
        return bool(self._held)

    # --- the end of an engine --------------------------------------------------------------------

    def engine_ended(self, exit_code: int) -> dict[int, ShoalError]:
        """The sequences that end with it, and how; the others are held for the next one."""
        failed: dict[int, ShoalError] = {}
        self._resent.clear()
        with_it = {seq_id: entry for seq_id, entry in self._open.items() if not entry.is_held}
        if exit_code != -signal.SIGKILL:  # from outside: it says nothing about the requests
            self._suspect({digest_of(entry.submit) for entry in with_it.values()})
        for seq_id, entry in self._open.items():
            entry.num_crashes += not entry.is_held
            if entry.num_crashes >= MAX_CRASHES or self._is_refused(entry.submit):
                digest = digest_of(entry.submit).hex()[:16]
                log.error("request refused: the engine ended with it twice", extra={"hash": digest})
                failed[seq_id] = poison_request()
            elif entry.has_output:
                failed[seq_id] = _restarted()
            elif not entry.is_held:
                entry.is_held = True
                self._held.append(seq_id)
        for seq_id in failed:
            if self._open.pop(seq_id).is_held:
                self._held.remove(seq_id)
        return failed

    def _suspect(self, digests: set[bytes]) -> None:
        """Notes that these were with the engine at a crash."""
        now = self._clock()
        for digest in digests:
            count, last_s = self._suspects.pop(digest, (0, now))
            self._suspects[digest] = (count + 1 if now - last_s < REMEMBERED_S else 1), now
        for digest in list(self._suspects)[:-_MAX_SUSPECTS]:
            del self._suspects[digest]

    def _is_refused(self, submit: Submit) -> bool:
        if not self._suspects:
            return False
        count, last_s = self._suspects.get(digest_of(submit), (0, 0.0))
        return count >= MAX_CRASHES and self._clock() - last_s < REMEMBERED_S

    def give_up(self) -> None:
        """No engine follows."""
        self._open.clear()
        self._held.clear()
        self._resent.clear()

    # --- the next engine -------------------------------------------------------------------------

    def to_send(self, is_ready: Callable[[Submit], bool]) -> list[Submit]:
        """Held ones whose turn it is: the first of each model that the engine `is_ready` for."""
        turns: list[Submit] = []
        now = self._clock()
        for seq_id in list(self._held):
            entry = self._open[seq_id]
            submit = entry.submit
            if submit.model in self._resent or not is_ready(submit):
                continue
            self._held.remove(seq_id)
            entry.is_held = False
            self._resent[submit.model] = seq_id
            turns.append(_with_time_left(submit, now - entry.sent_s))
        return turns

    def unsendable(self, is_ready: Callable[[Submit], bool]) -> dict[int, ShoalError]:
        """The engine has loaded what it can: held ones that it cannot run, and their error."""
        wanted = [seq_id for seq_id in self._held if not is_ready(self._open[seq_id].submit)]
        return self._fail_held(wanted, _restarted())

    def overdue(self) -> dict[int, ShoalError]:
        """Held ones that have waited too long, and their error."""
        now = self._clock()
        late, out_of_time = [], []
        for seq_id in self._held:
            entry = self._open[seq_id]
            deadline_s, waited_s = entry.submit.stop.deadline_s, now - entry.sent_s
            if deadline_s is not None and waited_s >= deadline_s:
                out_of_time.append(seq_id)
            elif waited_s >= MAX_HELD_S:
                late.append(seq_id)
        timeout = RequestTimeout("max_time passed before the request could start")
        return self._fail_held(out_of_time, timeout) | self._fail_held(late, _restarted())

    @property
    def has_held(self) -> bool:
        return bool(self._held)

    def _fail_held(self, seq_ids: Sequence[int], error: ShoalError) -> dict[int, ShoalError]:
        for seq_id in seq_ids:
            self._held.remove(seq_id)
            del self._open[seq_id]
        return dict.fromkeys(seq_ids, error)


def digest_of(submit: Submit) -> bytes:
    """Of all that the engine computes with: the same for a request that is sent again, whatever
    its seed. Never the text itself."""
    same = msgspec.structs.replace(
        submit,
        seq_id=0,
        sampling=msgspec.structs.replace(submit.sampling, seed=0),
        stop=msgspec.structs.replace(submit.stop, deadline_s=None),
        tenant="",
        cache_salt="",
        priority=0,
        weight=1.0,
    )
    return hashlib.sha256(msgspec.msgpack.encode(same)).digest()


def poison_request() -> PoisonRequest:
    return PoisonRequest("the engine ended twice while it had this request; it is not run again")


def _restarted() -> EngineRestarted:
    return EngineRestarted("the engine was restarted; try again", retry_after_s=2.0)


def _with_time_left(submit: Submit, waited_s: float) -> Submit:
    deadline_s = submit.stop.deadline_s
    if deadline_s is None:
        return submit
    stop = msgspec.structs.replace(submit.stop, deadline_s=max(0.0, deadline_s - waited_s))
    return msgspec.structs.replace(submit, stop=stop)
