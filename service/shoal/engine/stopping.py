"""Why and when a sequence ends: end and stop ids, lengths, loops, deadlines, what never starts.

Decisions only; the scheduler acts on them. Stop strings are matched on the text side.
"""

from heapq import heapify, heappop, heappush

from shoal.engine.applied import Applied
from shoal.engine.sequence import Sequence
from shoal.protocol.messages import Finished, Submit
from shoal.protocol.params import FinishReason
from shoal.protocol.step import StepResult

_CUT = Finished(FinishReason.LENGTH)


def failed(error_code: str, message: str | None = None) -> Finished:
    return Finished(FinishReason.ERROR, error_code=error_code, error_message=message)


def refusal(submit: Submit, vocab_size: int, max_model_len: int) -> str | None:
    """Error code of a sequence that could never run. The HTTP side checks the same before;
    this is a second guard, so that one bad sequence cannot fail the step of others. End ids come
    from the model, not the caller: one beyond the vocabulary is simply never sampled."""
    prompt = submit.prompt_token_ids
    biased = [token_id for token_id, _ in submit.sampling.logit_bias]
    allowed, breakers = submit.sampling.allowed_token_ids, submit.sampling.dry_breaker_ids
    token_ids = [*prompt, *biased, *allowed, *breakers, *submit.stop.stop_token_ids]
    if not prompt or min(token_ids) < 0 or max(token_ids) >= vocab_size:
        return "invalid_value"
    if len(prompt) + min(submit.stop.max_tokens, 1) > max_model_len:
        return "context_length_exceeded"
    return None


def finish_prompt(seq: Sequence, result: StepResult, applied: Applied) -> Finished:
    """How a sequence ends that wants no output token; its vector, if it wants that, is applied."""
    if seq.submit.output.embedding:
        if seq.seq_id not in result.embeddings:
            return failed("internal_error")
        applied.embeddings[seq.seq_id] = result.embeddings[seq.seq_id]
    return _CUT


def finish_after(seq: Sequence, token_id: int) -> Finished | None:
    """Does the token that was just appended end the sequence?"""
    if token_id in seq.stop_ids and seq.num_output_tokens > seq.submit.stop.min_tokens:
        is_end = token_id in seq.submit.stop.end_token_ids
        return Finished(FinishReason.STOP, stop_reason=None if is_end else token_id)
    stop = seq.submit.stop
    if seq.watches_loops and seq.num_output_tokens > stop.min_tokens:
        most = stop.loop_min_repeats * stop.loop_max_period
        output = seq.token_ids[max(seq.num_prompt_tokens, seq.num_tokens - most) :]
        if is_looping(output, stop.loop_min_repeats, stop.loop_max_period):
            return Finished(FinishReason.LENGTH, stop_reason="loop")
    if len(seq.token_ids) >= seq.max_num_tokens:
        return Finished(FinishReason.LENGTH)
    return None


def finish_after_further(
    seq: Sequence, further: list[int], *, ends: bool
) -> tuple[list[int], Finished | None]:
    """Appends tokens that follow the last one in the same step, up to one that ends the sequence;
    which came so far, and how it ended. `ends`: nothing may follow them all, which is no matter of
    length."""
    last_id, num_taken = seq.token_ids[-1], 0
    while (finished := finish_after(seq, last_id)) is None and num_taken < len(further):
        last_id = further[num_taken]
        seq.token_ids.append(last_id)
        num_taken += 1
    if ends and num_taken == len(further) and (finished or _CUT).reason is FinishReason.LENGTH:
        finished = Finished(FinishReason.STOP)
    return further[:num_taken], finished


def is_looping(token_ids: list[int], min_repeats: int, max_period: int) -> bool:
    """Do the tokens end with the same block of at most `max_period`, `min_repeats` times?"""
    last = token_ids[-1]
    for period in range(1, min(max_period, len(token_ids) // min_repeats) + 1):
        if token_ids[-1 - period] != last:
            continue
        length = period * min_repeats
        if token_ids[period - length :] == token_ids[-length:-period]:
            return True
    return False


def finish_at_deadline(seq: Sequence) -> Finished:
    """The output so far is the answer; without any, it is an error."""
    if seq.num_output_tokens == 0:
        return failed("request_timeout")
    return Finished(FinishReason.LENGTH, stop_reason="max_time")


class Deadlines:
    """Which sequences are out of time, without checking every one in every step."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._by_id: dict[int, float] = {}

    def add(self, seq: Sequence) -> None:
        if seq.deadline_s is not None:
            self._by_id[seq.seq_id] = seq.deadline_s
            heappush(self._heap, (seq.deadline_s, seq.seq_id))

    def remove(self, seq_id: int) -> None:
        """Its heap entry stays until it is due, or until most entries are such."""
        self._by_id.pop(seq_id, None)
        if len(self._heap) > 2 * len(self._by_id) + 1024:
            self._heap = [(deadline_s, seq_id) for seq_id, deadline_s in self._by_id.items()]
            heapify(self._heap)

    def pop_expired(self, now: float) -> list[int]:
        """Ids whose deadline is at or before `now`, earliest first; each is returned once."""
        expired = []
        while self._heap and self._heap[0][0] <= now:
            _, seq_id = heappop(self._heap)
            if self._by_id.pop(seq_id, None) is not None:
                expired.append(seq_id)
        return expired
