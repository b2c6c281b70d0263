"""What the scheduler has recorded of a step."""

from dataclasses import dataclass, field

from shoal.engine.sequence import Sequence
from shoal.protocol.messages import Started, TokenLogprobs
from shoal.protocol.step import StepResult


@dataclass(slots=True)
class Applied:
    """What one step produced; `seq_ids[i]` got the token `token_ids[i]`."""

    seq_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: dict[int, list[TokenLogprobs | None]] = field(default_factory=dict)
    started: dict[int, Started] = field(default_factory=dict)
    embeddings: dict[int, bytes] = field(default_factory=dict)
    """Of sequences that finished with their prompt."""
    further: dict[int, list[int]] = field(default_factory=dict)
    """Tokens that followed these in the same step."""
    num_accepted: int = 0
    """Drafts that held."""

    def add_prompt(self, seq: Sequence, result: StepResult, now: float) -> None:
        """Tokens of the prompt were computed: reports the start once they all are."""
        if seq.prompt_logprobs is not None:
            seq.prompt_logprobs += result.prompt_logprobs.get(seq.seq_id, ())
        if seq.num_computed_tokens < seq.num_prompt_tokens or seq.num_output_tokens > 0:
            return
        assert seq.admitted_s is not None, "a running sequence was never admitted"
        self.started[seq.seq_id] = Started(
            num_cached_tokens=seq.num_cached_tokens,
            queue_s=seq.admitted_s - seq.arrival_s,
            prefill_s=now - seq.admitted_s,
            num_ahead=seq.num_ahead,
        )
        if seq.prompt_logprobs is not None:
            self.prompt_logprobs[seq.seq_id] = seq.prompt_logprobs
            seq.prompt_logprobs = None
