"""What a choice gained since its reader last looked."""

from dataclasses import dataclass, field

from shoal.protocol.messages import Progress, TokenLogprobs
from shoal.protocol.trace import TokenTrace


@dataclass(slots=True)
class Delta:
    """New output of one choice since its previous delta."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One per token id when logprobs were requested."""
    offsets: list[int] = field(default_factory=list)
    """Code points of output text before each token; recorded only with logprobs."""
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    traces: list[TokenTrace] = field(default_factory=list)
    """One per sampled token when a trace was requested."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    progress: Progress | None = None
    """Before the first token, if it was asked for; then nothing else is there."""

    def merge(self, later: "Delta") -> None:
        """Appends the following delta of the same choice."""
        self.text += later.text
        self.token_ids += later.token_ids
        self.logprobs += later.logprobs
        self.offsets += later.offsets
        self.traces += later.traces
        self.prompt_logprobs = self.prompt_logprobs or later.prompt_logprobs
        self.progress = later.progress
        self.finish_reason = later.finish_reason
        self.stop_reason = later.stop_reason
