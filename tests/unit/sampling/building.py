"""Rows to be sampled, in a line each."""

from typing import Any

import numpy as np

from shoal.protocol.params import OutputParams, SamplingParams, StopParams
from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32
from shoal.sampling.sampler import Sampler, SamplingState

Row = tuple[SamplingState, int]
"""A state, and the position of the token to be sampled."""


def make_state(
    params: SamplingParams | None = None,
    *,
    prompt: list[int] | None = None,
    output: list[int] | None = None,
    min_tokens: int = 0,
    stop_token_ids: tuple[int, ...] = (),
    num_token_ids: int = 1 << 20,
) -> SamplingState:
    """The state of a sequence that comes with this prompt and output."""
    prompt = prompt or []
    new = NewRow(
        seq_id=0,
        token_ids=prompt + (output or []),
        num_prompt_tokens=len(prompt),
        block_ids=[],
        sampling=params or SamplingParams(seed=0),
        stop=StopParams(max_tokens=99, min_tokens=min_tokens, stop_token_ids=stop_token_ids),
        output=OutputParams(),
    )
    return SamplingState(new, num_token_ids)


def row(seed: int = 0, position: int = 5, **params: Any) -> Row:
    """Fields of SamplingParams by name."""
    return make_state(SamplingParams(seed=seed, **params)), position


def sample(sampler: Sampler, logits: Float32, rows: list[Row]) -> list[int]:
    positions = np.array([position for _, position in rows], np.int32)
    tokens: list[int] = sampler.sample(logits, [state for state, _ in rows], positions).tolist()
    return tokens
