"""How one output token came about, as the engine reports it."""

import msgspec


class TraceStep(msgspec.Struct, frozen=True, array_like=True):
    """What one step of the sampler left of the tokens that the steps before it had left."""

    name: str
    """A logits processor, temperature, top_k, top_p, typical_p or min_p."""
    num_left: int
    removed: float
    """Probability that the removed tokens had before this step."""


class TokenTrace(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities, entropy and rank are of the raw model distribution."""

    token_id: int
    logprob: float
    rank: int
    """1 = the model's best token; of equal ones the lower id comes first."""
    entropy: float
    """In nats."""
    top_ids: list[int]
    """The k most likely ids, most likely first."""
    top_logprobs: list[float]
    steps: list[TraceStep]
    """Those that were on, in the order of the sampler."""
    removed_by: str | None
    """The step that removed the model's best token."""
    uniform: float | None
    """The random number in [0, 1) that drew the token; None for a greedy one."""
    lens_ids: list[int]
    """The logit lens: the best token after each layer."""
    lens_logprobs: list[float]
