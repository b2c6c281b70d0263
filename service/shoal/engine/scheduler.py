"""Plans steps of one model and applies their results: continuous batching over paged KV blocks.

Each step every running sequence that has one token left to compute gets it (decode); what is
left of the token budget goes to prefills and to sequences that join, those of the least-served
tenant first. A small step may get drafts. When blocks run out the sequence admitted last, of the
tenant with the most rows, is put back and recomputed later, so the oldest always advances; when
rows run out, one of a tenant with many makes way. While all rows decode and nobody joins or leaves,
the next plan continues the last one. Knows integers only: no tensors, text, sockets or models.
"""

from collections.abc import Collection, Mapping
from itertools import count
from math import inf

from shoal.engine.applied import Applied
from shoal.engine.continuing import Continuation
from shoal.engine.drafts import Drafts
from shoal.engine.kv_blocks import KVBlocks
from shoal.engine.kv_budget import Account
from shoal.engine.limits import Limits
from shoal.engine.rows_check import check_rows
from shoal.engine.sequence import Sequence, is_decoding, make_sequence, new_row
from shoal.engine.stopping import (
    Deadlines,
    failed,
    finish_after,
    finish_after_further,
    finish_at_deadline,
    finish_prompt,
    refusal,
)
from shoal.engine.waiting import WaitingQueue
from shoal.engine.yielding import Yielding
from shoal.protocol.messages import Finished, Submit
from shoal.protocol.step import StepPlan, StepResult


class Scheduler:
    """Owns the sequences of one model and their blocks. `add`, `abort` and `expire` may be called
    between steps; a step is `plan`, run, then `apply` or `fail_step`."""

    def __init__(self, limits: Limits, account: Account | None = None) -> None:
        """`account`: of the KV memory that models share; None = all blocks are this model's."""
        self.limits = limits
        self.num_preemptions = 0
        self.blocks = KVBlocks(
            limits.num_blocks, limits.block_size, prefix_cache=limits.prefix_cache, account=account
        )
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # in the order of first admission
        self._sequences: dict[int, Sequence] = {}  # waiting and running
        self._deadlines = Deadlines()
        self._planned: list[Sequence] = []  # rows of the last plan, in its order
        self._continuation = Continuation(self.blocks, self._waiting.shares)
        self.drafts = Drafts(limits, self.blocks, self._waiting.shares)
        self._yielding = Yielding(limits, self._waiting)
        self._now = 0.0  # of the last plan
        self._released: list[int] = []  # left their rows since the last plan
        self._finished: dict[int, Finished] = {}  # since the last `take_finished`
        self._cpu_s: dict[int, float] = {}  # of those that got a token or finished since then
        self._arrivals = count()

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def has_finished(self) -> bool:
        """Does `take_finished` have something to return?"""
        return bool(self._finished)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_waiting_tokens(self) -> int:
        return self._waiting.num_tokens

    @property
    def num_yields(self) -> int:
        return self._yielding.num_yields

    @property
    def sequences(self) -> Mapping[int, Sequence]:
        """Running and waiting, by id; always the present ones."""
        return self._sequences

    # --- arrivals and aborts -------------------------------------------------------------------

    def add(self, submit: Submit, now: float, expected: Collection[int] = ()) -> None:
        """A new sequence, likely to begin so; one that could never run finishes with an error."""
        assert submit.seq_id not in self._sequences, f"sequence {submit.seq_id} was added twice"
        if code := refusal(submit, self.limits.vocab_size, self.limits.max_model_len):
            self.refuse(submit.seq_id, code)
            return
        seq = make_sequence(submit, self.limits.max_model_len, next(self._arrivals), now)
        seq.num_ahead = len(self._waiting)
        self._sequences[seq.seq_id] = seq
        self._waiting.add(seq)
        self._deadlines.add(seq)
        self.blocks.expect(seq, 1)
        self.drafts.expect_first(seq, expected)

    def refuse(self, seq_id: int, code: str, message: str | None = None) -> None:
        """Finishes a sequence that was not added, with an error code."""
        self._finished[seq_id] = failed(code, message)

    def abort(self, seq_id: int) -> None:
        """Ends the sequence without reporting it as finished; unknown ids are ignored."""
        self._finished.pop(seq_id, None)
        if (seq := self._sequences.get(seq_id)) is not None:
            self._drop(seq)

    def expire(self, now: float) -> None:
        """Ends the sequences whose deadline has passed."""
        for seq_id in self._deadlines.pop_expired(now):
            seq = self._sequences[seq_id]
            self._finish(seq, finish_at_deadline(seq))

    def take_finished(self) -> dict[int, Finished]:
        """Sequences that finished since the last call."""
        finished, self._finished = self._finished, {}
        return finished

    def take_cpu_s(self) -> dict[int, float]:
        """CPU time of the sequences that got a token or finished since the last call."""
        cpu_s, self._cpu_s = self._cpu_s, {}
        return cpu_s

    # --- plan ----------------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan:
        """The next step. It has rows whenever a sequence remains and the blocks of this model's
        share are not used by others, who `make_way`."""
        self._now = now
        self.blocks.end_shortage()
        may_admit = len(self._waiting) > 0 and len(self._running) < self.limits.max_rows
        if (
            self._continuation
            and not (may_admit or self._yielding.interferes(self._running, now))
            and not self.drafts.are_due(self._planned)
            and (plan := self._continuation.next()) is not None
        ):
            return plan
        for seq in self._yielding.rows_to_yield(self._running, now):
            self._put_back(seq)
        while (row := self._yielding.row_for_blocks(self._running, self.blocks)) is not None:
            self._preempt(row)
        plan = StepPlan(released=self._released)
        self._yielding.limit(self._running, now)
        self._fill(plan, now)
        if not plan.seq_ids and self._yielding.lift():
            self._fill(plan, now)
        self.drafts.add_to(plan, self._planned)
        self._released = []
        self._continuation.end()
        are_all = len(self._planned) == len(self._running)
        if are_all and not plan.drafts and all(map(is_decoding, self._planned)):
            self._continuation.start(plan, self._planned)
        return plan

    def _fill(self, plan: StepPlan, now: float) -> None:
        """Rows for decodes, then for prompts, those of the least-served tenant first."""
        prefilling = self._plan_decodes(plan)
        budget = self.limits.token_budget - len(plan.seq_ids)
        served = self._waiting.shares.served
        for seq in sorted(prefilling, key=lambda seq: served(seq.submit.tenant)):
            budget = self._admit(plan, budget, now, lighter_than=served(seq.submit.tenant))
            budget -= self._plan_prefill(plan, seq, budget)
        self._admit(plan, budget, now)

    def make_way(self) -> None:
        """Another model is short of blocks: gives up what is used beyond this model's share."""
        while self.blocks.has_excess:
            self._preempt(self._running[-1])

    def _plan_decodes(self, plan: StepPlan) -> list[Sequence]:
        """Rows for the sequences with one token to compute, and blocks for all known tokens;
        returns the other sequences. Neither those that sit out."""
        decoding, prefilling = [], []
        running, block_size = self._running, self.limits.block_size
        sits_out = self._yielding.sits_out
        index = 0
        while index < len(running):  # preemption shortens it, but only behind `index`
            seq = running[index]
            index += 1
            if sits_out(seq):
                continue
            num_tokens = len(seq.token_ids)
            if num_tokens > len(seq.block_ids) * block_size:
                num_blocks = len(seq.block_ids)
                if not self._grow(seq):
                    break
                plan.new_block_ids[seq.seq_id] = seq.block_ids[num_blocks:]
            if num_tokens - seq.num_computed_tokens > 1:
                prefilling.append(seq)
            else:
                decoding.append(seq)
        self._planned = decoding
        plan.seq_ids = [seq.seq_id for seq in decoding]
        plan.num_computed_tokens = [seq.num_computed_tokens for seq in decoding]
        plan.num_new_tokens = [1] * len(decoding)
        self._waiting.shares.charge_decodes(decoding)
        return prefilling

    def _plan_prefill(self, plan: StepPlan, seq: Sequence, budget: int) -> int:
        """A row that computes as many of the remaining tokens as the budget allows; how many."""
        num_new_tokens = self._yielding.prompt_tokens(
            seq, min(seq.num_tokens - seq.num_computed_tokens, budget)
        )
        if num_new_tokens == 0:
            return 0
        self._planned.append(seq)
        plan.seq_ids.append(seq.seq_id)
        plan.num_computed_tokens.append(seq.num_computed_tokens)
        plan.num_new_tokens.append(num_new_tokens)
        self._waiting.shares.charge_prefill(seq, num_new_tokens)
        return num_new_tokens

    def _grow(self, seq: Sequence) -> bool:
        """Blocks for all known tokens of `seq`; while there is none, the sequence admitted last is
        preempted. False if that is `seq` itself: it is then waiting again, or failed."""
        while len(seq.block_ids) * self.limits.block_size < seq.num_tokens:
            if self.blocks.grow(seq):
                continue
            newest = self._running[-1]
            self._preempt(newest)
            if newest is seq:
                return False
        return True

    def _preempt(self, seq: Sequence) -> None:
        self.num_preemptions += 1
        if seq.num_preemptions == self.limits.max_preemptions:
            self._finish(seq, failed("server_is_overloaded"))
            return
        seq.num_preemptions += 1
        seq.goes_first = True
        self._put_back(seq)

    def _put_back(self, seq: Sequence) -> None:
        """A running sequence waits again, and is recomputed later."""
        self._leave_row(seq)
        if seq.prompt_logprobs is not None:
            seq.start_prompt_logprobs()
        self._waiting.put_back(seq)

    def _admit(self, plan: StepPlan, budget: int, now: float, lighter_than: float = inf) -> int:
        """Admits waiting sequences of tenants served less than `lighter_than` while there are rows,
        tokens and blocks for them; what is left of the budget. Stops at the first that finds no
        blocks: nobody overtakes it, so it cannot starve."""
        if not len(self._waiting):
            return budget
        held: list[Sequence] = []
        max_rows, served = self.limits.max_rows, self._waiting.shares.served
        while budget > 0 and len(self._waiting) and len(self._running) < max_rows > len(held):
            seq = self._waiting.pop(now)
            if (
                served(seq.submit.tenant) >= lighter_than
                or not self._yielding.may_start(seq, len(self._running), now)
                or (held and seq.num_yields)  # it made way for those that wait for a prefix
                or (self.limits.whole_prompts and seq.num_tokens > budget)
            ):
                held.append(seq)
                break
            prefix = self.blocks.find_prefix(seq)
            if self.blocks.should_wait_for_prefix(seq, len(prefix)):
                held.append(seq)
                continue
            # Reserve the next block of each running sequence, or admission would cause preemption.
            num_reserved = sum(map(self.blocks.may_grow, self._running))
            if not self.blocks.admit(seq, prefix, num_reserved):
                self._yielding.lacks_blocks = True
                held.append(seq)
                break
            self._enter_row(seq, now)
            plan.new_rows.append(new_row(seq))
            budget -= self._plan_prefill(plan, seq, budget)
        for seq in reversed(held):
            self._waiting.put_back(seq)
        return budget

    def _enter_row(self, seq: Sequence, now: float) -> None:
        if seq.admitted_s is None:
            seq.admitted_s = now
            seq.num_cached_tokens = seq.num_charged_tokens = seq.num_computed_tokens
        seq.goes_first = False
        self._running.append(seq)
        self._waiting.shares.enter_row(seq)

    # --- apply ---------------------------------------------------------------------------------

    def apply(self, plan: StepPlan, result: StepResult, now: float, cpu_s: float = 0.0) -> Applied:
        """Records what the runner computed for the last plan, and shares out its CPU time by
        tokens."""
        applied, token_cpu_s = Applied(), cpu_s / max(plan.num_tokens, 1)
        seq_ids, sampled = applied.seq_ids, applied.token_ids
        drafts, block_size = plan.drafts, self.limits.block_size
        self.drafts.expect(result.expected)
        rows = zip(self._planned, plan.num_new_tokens, result.token_ids, strict=True)
        for seq, num_new_tokens, token_id in rows:
            seq.cpu_s += num_new_tokens * token_cpu_s
            if token_id is None and (code := result.errors.get(seq.seq_id)) is not None:
                self._fail(seq, code)
                continue
            if drafts:
                num_new_tokens -= len(drafts.get(seq.seq_id, ()))
            num_computed_tokens = seq.num_computed_tokens + num_new_tokens
            seq.num_computed_tokens = num_computed_tokens
            if num_new_tokens > 1 or num_computed_tokens % block_size == 0:
                self.blocks.cache_full_blocks(seq)
            if num_computed_tokens <= seq.num_prompt_tokens:
                applied.add_prompt(seq, result, now)
                if num_computed_tokens == seq.max_num_tokens:  # no output token is wanted
                    self._finish(seq, finish_prompt(seq, result, applied))
                    continue
            token_ids = seq.token_ids
            if token_id is None:
                if num_computed_tokens == len(token_ids):
                    self._fail(seq, "internal_error")
                continue
            token_ids.append(token_id)
            seq_ids.append(seq.seq_id)
            sampled.append(token_id)
            self._cpu_s[seq.seq_id] = seq.cpu_s
            may_end = token_id in seq.stop_ids or len(token_ids) >= seq.max_num_tokens
            may_end = may_end or seq.watches_loops
            if seq.seq_id in result.further or seq.seq_id in result.ended or drafts:
                self._apply_further(seq, drafts.get(seq.seq_id), result, applied)
            elif may_end and (finished := finish_after(seq, token_id)) is not None:
                self._finish(seq, finished)
        return applied

    def _apply_further(
        self, seq: Sequence, draft: list[int] | None, result: StepResult, applied: Applied
    ) -> None:
        """Tokens that follow the sampled one in the same step, and the end of the grammar."""
        further, finished = finish_after_further(
            seq, result.further.get(seq.seq_id, []), ends=seq.seq_id in result.ended
        )
        if further:
            applied.further[seq.seq_id] = further
            self._continuation.end()
        if draft is not None:
            applied.num_accepted += self.drafts.record(seq, draft)
        if finished is not None:
            self._finish(seq, finished)

    def fail_step(self, plan: StepPlan, code: str) -> None:
        """The whole step failed: its sequences fail. The runner may not have heard the plan: what
        to forget is told again; who got a row or blocks, but no part in the step, starts anew."""
        self._released = plan.released + self._released
        told = {row.seq_id for row in plan.new_rows} | plan.new_block_ids.keys()
        for seq_id in told.difference(plan.seq_ids):
            self._put_back(self._sequences[seq_id])
        for seq_id in plan.seq_ids:
            self._fail(self._sequences[seq_id], code)

    # --- ends ----------------------------------------------------------------------------------

    def _fail(self, seq: Sequence, code: str) -> None:
        self.blocks.invalidate(seq)
        self._finish(seq, failed(code))

    def _finish(self, seq: Sequence, finished: Finished) -> None:
        self._finished[seq.seq_id] = finished
        self._cpu_s[seq.seq_id] = seq.cpu_s
        self._drop(seq)

    def _drop(self, seq: Sequence) -> None:
        del self._sequences[seq.seq_id]
        self._waiting.shares.leave(seq, self._now)
        self._deadlines.remove(seq.seq_id)
        self.drafts.finish(seq)
        self.blocks.expect(seq, -1)
        if seq.seq_id in self._waiting:
            self._waiting.remove(seq)
        else:
            self._leave_row(seq)

    def _leave_row(self, seq: Sequence) -> None:
        self._continuation.end()
        # Plans that continue charge the tenant, not the sequence: what it computed was paid for.
        seq.num_charged_tokens = max(seq.num_charged_tokens, seq.num_computed_tokens)
        self._running.remove(seq)
        self._waiting.shares.leave_row(seq)
        self.blocks.release(seq)
        self._released.append(seq.seq_id)

    def check(self) -> None:
        """Raises InvariantError unless all bookkeeping agrees. Call it between steps."""
        self._waiting.check()
        self._waiting.shares.check(self._running, self._sequences.values())
        self.blocks.check(self._running)
        check_rows(self._running, self._waiting, self._sequences, self.limits.max_rows)
