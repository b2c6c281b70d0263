"""What the scheduler has recorded of a step."""

from dataclasses import dataclass, field

from shoal.protocol.messages import Started, TokenLogprobs


@dataclass(slots=True)
class Applied:
    """What one step produced; `seq_ids[i]` got the token `token_ids[i]`."""

    seq_ids: list[int] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: dict[int, list[TokenLogprobs | None]] = field(default_factory=dict)
    started: dict[int, Started] = field(default_factory=dict)
    forced: dict[int, list[int]] = field(default_factory=dict)
    """Tokens that followed without being sampled."""
