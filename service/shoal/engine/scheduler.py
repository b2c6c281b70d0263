"""Plans steps of one model and applies their results: continuous batching over paged KV blocks.

Each step every running sequence that has one token left to compute gets it (decode); what is
left of the token budget goes to prefills, oldest first, then to sequences that join. When
blocks run out the sequence admitted last is put back and recomputed later, so the oldest
always advances. While all rows decode and nobody joins or leaves, the next plan continues the
last one. Knows integers only: no tensors, text, sockets or other models.
"""

from collections import Counter

from shoal.engine.applied import Applied
from shoal.engine.block_pool import ensure
from shoal.engine.kv_blocks import KVBlocks
from shoal.engine.kv_budget import Account
from shoal.engine.limits import Limits
from shoal.engine.sequence import Sequence, make_sequence, new_row
from shoal.engine.stopping import (
    Deadlines,
    failed,
    finish_after,
    finish_after_forced,
    finish_at_deadline,
    refusal,
)
from shoal.engine.waiting import WaitingQueue
from shoal.protocol.messages import Finished, Started, Submit
from shoal.protocol.params import FinishReason
from shoal.protocol.step import StepPlan, StepResult


class Scheduler:
    """Owns the sequences of one model and their blocks. `add`, `abort` and `expire` may be called
    between steps; a step is `plan`, run, then `apply` or `fail_step`."""

    def __init__(self, limits: Limits, account: Account | None = None) -> None:
        """`account`: of the KV memory that models share; None = all blocks are this model's."""
        self.limits = limits
        self.num_preemptions = 0
        self._blocks = KVBlocks(
            limits.num_blocks,
            limits.block_size,
            prefix_cache=limits.prefix_cache,
            account=account,
        )
        self._waiting = WaitingQueue()
        self._running: list[Sequence] = []  # in the order of first admission
        self._sequences: dict[int, Sequence] = {}  # waiting and running
        self._deadlines = Deadlines()
        self._planned: list[Sequence] = []  # rows of the last plan, in its order
        self._to_continue: StepPlan | None = None  # the last plan, if the next one may continue it
        self._tenants: Counter[str] = Counter()  # rows of each tenant in that plan
        self._released: list[int] = []  # left their rows since the last plan
        self._finished: dict[int, Finished] = {}  # since the last `take_finished`
        self._cpu_s: dict[int, float] = {}  # of those that got a token or finished since then
        self._num_arrived = 0

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
    def num_used_blocks(self) -> int:
        return self._blocks.pool.num_used

    def has_adapter(self, adapter_id: int) -> bool:
        """Has any sequence, running or waiting, this adapter?"""
        return any(seq.submit.adapter_id == adapter_id for seq in self._sequences.values())

    # --- arrivals and aborts -------------------------------------------------------------------

    def add(self, submit: Submit, now: float) -> None:
        """A new sequence; one that could never run finishes at once with an error code."""
        assert submit.seq_id not in self._sequences, f"sequence {submit.seq_id} was added twice"
        code = refusal(submit, self.limits.vocab_size, self.limits.max_model_len)
        if code is not None:
            self.refuse(submit.seq_id, code)
            return
        seq = make_sequence(submit, self.limits.max_model_len, self._num_arrived, now)
        self._num_arrived += 1
        self._sequences[seq.seq_id] = seq
        self._waiting.add(seq)
        self._deadlines.add(seq)
        self._blocks.expect(seq, 1)

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

    @property
    def num_blocks(self) -> int:
        """Blocks that sequences hold or could get now."""
        return self._blocks.pool.num_used + self._blocks.pool.num_available

    @property
    def _may_admit(self) -> bool:
        return len(self._waiting) > 0 and len(self._running) < self.limits.max_rows

    # --- plan ----------------------------------------------------------------------------------

    def plan(self, now: float) -> StepPlan:
        """The next step. It has rows whenever a sequence remains and the blocks of this model's
        share are not used by others, who `make_way`."""
        self._blocks.end_shortage()
        if (plan := self._continue()) is not None:
            return plan
        plan = StepPlan(released=self._released)
        prefilling = self._plan_decodes(plan)
        budget = self.limits.token_budget - len(plan.seq_ids)
        for seq in prefilling:
            if budget == 0:
                break
            budget -= self._plan_prefill(plan, seq, budget)
        self._admit(plan, budget, now)
        self._released = []
        self._to_continue = None
        if len(self._planned) == len(self._running) and all(map(_is_decoding, self._planned)):
            self._to_continue = plan
            self._tenants = Counter(seq.submit.tenant for seq in self._planned)
        return plan

    def _continue(self) -> StepPlan | None:
        """The same rows, one more token of each. None where rows may join or have left, or one
        would not get its block."""
        last, block_size = self._to_continue, self.limits.block_size
        if last is None or self._may_admit:
            return None
        at_block_boundary = [
            seq for seq in self._planned if seq.num_computed_tokens % block_size == 0
        ]
        if len(at_block_boundary) > self._blocks.pool.num_available:
            return None
        for seq in at_block_boundary:
            self._blocks.grow(seq)
        self._waiting.shares.charge_continued(self._tenants)
        self._to_continue = StepPlan(
            seq_ids=last.seq_ids,
            num_computed_tokens=[count + 1 for count in last.num_computed_tokens],
            num_new_tokens=last.num_new_tokens,
            new_block_ids={seq.seq_id: seq.block_ids[-1:] for seq in at_block_boundary},
            continues=True,
        )
        return self._to_continue

    def make_way(self) -> None:
        """Another model is short of blocks: gives up what is used beyond this model's share."""
        while self._blocks.has_excess:
            self._preempt(self._running[-1])

    def _plan_decodes(self, plan: StepPlan) -> list[Sequence]:
        """Rows for all sequences with one token to compute, and blocks for all known tokens;
        returns the other sequences."""
        decoding, prefilling = [], []
        running, block_size = self._running, self.limits.block_size
        index = 0
        while index < len(running):  # preemption shortens it, but only behind `index`
            seq = running[index]
            index += 1
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
        num_new_tokens = min(seq.num_tokens - seq.num_computed_tokens, budget)
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
            if self._blocks.grow(seq):
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
        self._leave_row(seq)
        seq.num_preemptions += 1
        if seq.prompt_logprobs is not None:
            seq.prompt_logprobs = [None]
        self._waiting.put_back(seq)

    def _admit(self, plan: StepPlan, budget: int, now: float) -> None:
        """Admits waiting sequences while there are rows, tokens and blocks for them. Stops at the
        first that finds no blocks: nobody overtakes it, so it cannot starve."""
        held: list[Sequence] = []
        max_rows = self.limits.max_rows
        while budget > 0 and len(self._waiting) and len(self._running) < max_rows > len(held):
            seq = self._waiting.pop(now)
            prefix = self._blocks.find_prefix(seq)
            if self._blocks.should_wait_for_prefix(seq, len(prefix)):
                held.append(seq)
                continue
            # Reserve the next block of each running sequence, or admission would cause preemption.
            num_reserved = sum(map(self._blocks.may_grow, self._running))
            if not self._blocks.admit(seq, prefix, num_reserved):
                held.append(seq)
                break
            self._enter_row(seq, now)
            plan.new_rows.append(new_row(seq))
            budget -= self._plan_prefill(plan, seq, budget)
        for seq in reversed(held):
            self._waiting.put_back(seq)

    def _enter_row(self, seq: Sequence, now: float) -> None:
        if seq.admitted_s is None:
            seq.admitted_s = now
            seq.num_cached_tokens = seq.num_charged_tokens = seq.num_computed_tokens
        self._running.append(seq)
        self._waiting.shares.admit(seq.submit.tenant)

    # --- apply ---------------------------------------------------------------------------------

    def apply(self, plan: StepPlan, result: StepResult, now: float, cpu_s: float = 0.0) -> Applied:
        """Records what the runner computed for the last plan, and shares out its CPU time by
        tokens."""
        token_cpu_s = cpu_s / max(plan.num_tokens, 1)
        applied = Applied()
        seq_ids, sampled = applied.seq_ids, applied.token_ids
        block_size = self.limits.block_size
        rows = zip(self._planned, plan.num_new_tokens, result.token_ids, strict=True)
        for seq, num_new_tokens, token_id in rows:
            seq.cpu_s += num_new_tokens * token_cpu_s
            if token_id is None and seq.seq_id in result.errors:
                self._fail(seq, result.errors[seq.seq_id])
                continue
            num_computed_tokens = seq.num_computed_tokens + num_new_tokens
            seq.num_computed_tokens = num_computed_tokens
            if num_new_tokens > 1 or num_computed_tokens % block_size == 0:
                self._blocks.cache_full_blocks(seq)
            if num_computed_tokens <= seq.num_prompt_tokens:
                self._apply_prompt(seq, result, applied, now)
                if num_computed_tokens == seq.max_num_tokens:  # no output token is wanted
                    self._finish(seq, Finished(FinishReason.LENGTH))
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
            if seq.seq_id in result.forced or seq.seq_id in result.ended:
                self._apply_grammar(seq, result, applied)
            elif may_end and (finished := finish_after(seq, token_id)) is not None:
                self._finish(seq, finished)
        return applied

    def _apply_grammar(self, seq: Sequence, result: StepResult, applied: Applied) -> None:
        """Tokens that follow without being sampled, and the end of the grammar."""
        forced, finished = finish_after_forced(
            seq, result.forced.get(seq.seq_id, []), ends=seq.seq_id in result.ended
        )
        if forced:
            applied.forced[seq.seq_id] = forced
            self._to_continue = None
        if finished is not None:
            self._finish(seq, finished)

    def _apply_prompt(
        self, seq: Sequence, result: StepResult, applied: Applied, now: float
    ) -> None:
        """Tokens of the prompt were computed: reports the start once they all are."""
        if seq.prompt_logprobs is not None:
            seq.prompt_logprobs += result.prompt_logprobs.get(seq.seq_id, ())
        if seq.num_computed_tokens < seq.num_prompt_tokens or seq.num_output_tokens > 0:
            return
        assert seq.admitted_s is not None, "a running sequence was never admitted"
        applied.started[seq.seq_id] = Started(
            num_cached_tokens=seq.num_cached_tokens,
            queue_s=seq.admitted_s - seq.arrival_s,
            prefill_s=now - seq.admitted_s,
        )
        if seq.prompt_logprobs is not None:
            applied.prompt_logprobs[seq.seq_id] = seq.prompt_logprobs
            seq.prompt_logprobs = None

    def fail_step(self, plan: StepPlan, code: str) -> None:
        """The whole step failed: its sequences fail, and the next plan tells the runner to forget
        them. What this plan told it to forget is told again: it may not have come so far."""
        self._released = plan.released + self._released
        for seq_id in plan.seq_ids:
            self._fail(self._sequences[seq_id], code)

    # --- ends ----------------------------------------------------------------------------------

    def _fail(self, seq: Sequence, code: str) -> None:
        self._blocks.invalidate(seq)
        self._finish(seq, failed(code))

    def _finish(self, seq: Sequence, finished: Finished) -> None:
        self._finished[seq.seq_id] = finished
        self._cpu_s[seq.seq_id] = seq.cpu_s
        self._drop(seq)

    def _drop(self, seq: Sequence) -> None:
        del self._sequences[seq.seq_id]
        self._deadlines.remove(seq.seq_id)
        self._blocks.expect(seq, -1)
        if seq.seq_id in self._waiting:
            self._waiting.remove(seq)
        else:
            self._leave_row(seq)

    def _leave_row(self, seq: Sequence) -> None:
        self._to_continue = None
        # Plans that continue charge the tenant, not the sequence: what it computed was paid for.
        seq.num_charged_tokens = max(seq.num_charged_tokens, seq.num_computed_tokens)
        self._running.remove(seq)
        self._blocks.release(seq)
        self._released.append(seq.seq_id)

    def check(self) -> None:
        """Raises InvariantError unless all bookkeeping agrees. Call it between steps."""
        self._waiting.check()
        self._blocks.check(self._running)
        running = {seq.seq_id for seq in self._running}
        ensure(len(running) == len(self._running), "a sequence has two rows")
        ensure(len(running) <= self.limits.max_rows, "more rows than allowed")
        for seq_id, seq in self._sequences.items():
            ensure((seq_id in running) != (seq_id in self._waiting), "a sequence is lost")
            ensure(seq_id in running or not seq.block_ids, "a waiting sequence holds blocks")
        ensure(
            len(self._sequences) == len(running) + len(self._waiting),
            "a finished sequence is still there",
        )


def _is_decoding(seq: Sequence) -> bool:
    """Does the planned step compute the sequence's last known token?"""
    return seq.num_tokens - seq.num_computed_tokens == 1
