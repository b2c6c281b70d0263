"""Sequences whose grammar is being made ready beside the steps; then they join the queue."""

import logging
from collections.abc import Callable
from concurrent.futures import Future

from shoal.engine.drafts import MAX_ROWS
from shoal.engine.scheduler import Scheduler
from shoal.engine.sequence import shares_with
from shoal.protocol.messages import Submit
from shoal.protocol.step import GrammarRunner, Runner

_log = logging.getLogger(__name__)


class Preparing:
    """Of one model."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self._scheduler = scheduler
        self._runner = runner if isinstance(runner, GrammarRunner) else None
        self._waiting: dict[int, tuple[Submit, float, Future[str | None]]] = {}

    def add(self, submit: Submit, now: float, wake: Callable[[], None]) -> None:
        """`wake` is called, perhaps in another thread, when `poll` has something to do."""
        assert submit.sampling.grammar is not None, "without a grammar there is nothing to prepare"
        if self._runner is None:
            self._scheduler.refuse(submit.seq_id, "grammar_error", "this model follows no grammar")
            return
        ready = self._runner.prepare_grammar(submit.sampling)
        self._waiting[submit.seq_id] = (submit, now, ready)
        if ready.done():
            self.poll()
        else:
            ready.add_done_callback(lambda _: wake())

    def poll(self) -> None:
        """Queues the sequences whose grammar is ready, as of their arrival; refuses those whose
        grammar cannot be used."""
        if not self._waiting:
            return
        for seq_id, (submit, arrival_s, ready) in list(self._waiting.items()):
            if not ready.done():
                continue
            del self._waiting[seq_id]
            if (problem := ready.result()) is None:
                self._scheduler.add(submit, arrival_s, self._expected(submit))
            else:
                message = " ".join(problem.split())
                self._scheduler.refuse(seq_id, "grammar_error", message[:900])

    def _expected(self, submit: Submit) -> list[int]:
        """What the sequence is likely to say first, where its first step may have drafts."""
        has_room = self._scheduler.num_running + self._scheduler.num_waiting < MAX_ROWS
        if self._runner is None or not self._scheduler.limits.drafts or not has_room:
            return []
        try:
            return self._runner.expected_at_start(submit.sampling, shares_with(submit))
        except Exception:  # a fault of ours: what it stops at, the first step meets and reports
            _log.exception("nothing is expected of sequence %d", submit.seq_id)
            return []

    def abort(self, seq_id: int) -> None:
        """Unknown ids are ignored."""
        self._waiting.pop(seq_id, None)

    def forget_answers(self) -> None:
        """What the runner's rows have learned from each other."""
        if self._runner is not None:
            self._runner.forget_answers()

    def has_adapter(self, adapter_id: int) -> bool:
        """Has any sequence that waits here this adapter?"""
        return any(submit.adapter_id == adapter_id for submit, _, _ in self._waiting.values())
