"""Parameters of one sequence: sampling, stopping, output.

The HTTP server has validated the values; the engine trusts them. The ranges and defaults that
users see are in `server/api`. Read `messages.py` next.
"""

from enum import StrEnum

import msgspec


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class SamplingParams(msgspec.Struct, frozen=True, array_like=True):
    """How the next token is sampled, applied in this order: logit_bias, allowed_token_ids,
    min_tokens, penalties, no_repeat_ngram_size, DRY, grammar, temperature, top_k, top_p, typical_p,
    min_p."""

    seed: int
    """64-bit; together with the position it is the entire random state of a sequence."""
    temperature: float = 1.0
    """0 = greedy: the most likely token (ties: lowest id)."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 = all."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias); a bias of -100 or less bans the token."""
    allowed_token_ids: tuple[int, ...] = ()
    """Only these are sampled; empty = all."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this size occurs twice in prompt and output; 0 = off."""
    dry_multiplier: float = 0.0
    """Of the DRY penalty; 0 = off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_breaker_ids: tuple[int, ...] = ()
    """Tokens that end a repetition."""
    grammar: str | None = None
    """What the output must look like, as llguidance reads it; of the allowed tokens those that it
    does not allow are banned, and the sequence ends with it."""
    copy_text: str | None = None
    """What the copies of `grammar` come from, see `COPY_TOKEN`; it has a word or a sign. None for a
    grammar without copies."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


class StopParams(msgspec.Struct, frozen=True, array_like=True):
    """When a sequence ends. Stop strings are matched in `text/`, which sends Abort."""

    max_tokens: int
    """Maximum output tokens; 0 = compute the prompt only."""
    min_tokens: int = 0
    """End and stop ids cannot be sampled before this many output tokens."""
    end_token_ids: tuple[int, ...] = ()
    """The model's EOS ids; empty with ignore_eos."""
    stop_token_ids: tuple[int, ...] = ()
    deadline_s: float | None = None
    """Seconds after Submit at which the sequence is ended, running or waiting."""
    loop_min_repeats: int = 0
    """End when the output closes with the same block of tokens so many times; 0 = off."""
    loop_max_period: int = 0
    """Most tokens of such a block."""

    @property
    def all_stop_ids(self) -> tuple[int, ...]:
        return self.end_token_ids + self.stop_token_ids


class OutputParams(msgspec.Struct, frozen=True, array_like=True):
    """What is reported in addition to the tokens."""

    logprobs: int | None = None
    """None = off, 0 = of the sampled token, k = also of the k most likely tokens."""
    prompt_logprobs: int | None = None
    """The same for prompt tokens; those that are reported do not come from the prefix cache."""
    prompt_logprobs_start: int = 0
    """The first prompt token that is reported."""
    progress: bool = False
    """Say how far it is, until the first token."""
    trace: int | None = None
    """None = off, k = how each token came about, with its k most likely alternatives."""
    embedding: bool = False
    """The prompt's vector is wanted, and no token: `max_tokens` is 0."""
