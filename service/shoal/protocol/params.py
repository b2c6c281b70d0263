"""Parameters of one sequence: which token, when to end, what to report.

The values were checked by the HTTP side; the engine trusts them. Ranges and defaults that
users see live in `server/api`; read `messages.py` next.
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
    """How the next token is picked, in this order: logit_bias, min_tokens, penalties, temperature,
    top_k, top_p, typical_p, min_p, the draw."""

    seed: int
    """64-bit; with the position it is the whole random state of a sequence."""
    temperature: float = 1.0
    """0 picks the best token (ties: lowest id)."""
    top_k: int = 0
    """Keep the k best; 0 = all."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias); -100 and below bans the token."""

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
    """When a sequence ends. Stop strings are matched by the text side, which sends Abort."""

    max_tokens: int
    """Output tokens; 0 = compute the prompt only."""
    min_tokens: int = 0
    """Until so many output tokens exist, end and stop ids are banned from sampling."""
    end_token_ids: tuple[int, ...] = ()
    """The model's own end ids; empty when the caller ignores them."""
    stop_token_ids: tuple[int, ...] = ()
    deadline_s: float | None = None
    """Seconds from Submit until the sequence is ended, wherever it is."""

    @property
    def all_stop_ids(self) -> tuple[int, ...]:
        return self.end_token_ids + self.stop_token_ids


class OutputParams(msgspec.Struct, frozen=True, array_like=True):
    """What is reported beside the tokens."""

    logprobs: int | None = None
    """None = nothing, 0 = the chosen token's, k = also those of the k best."""
    prompt_logprobs: int | None = None
    """The same for every prompt token; the prefix cache is then not read."""
