"""The registry of logits processors. They are applied in its order; allow-masks come last."""

from shoal.protocol.step import NewRow
from shoal.sampling.processors import (
    allowed_tokens,
    bias,
    dry,
    min_tokens,
    no_repeat_ngram,
    penalties,
)
from shoal.sampling.processors.base import Build, LogitsProcessor

REGISTRY: tuple[Build, ...] = (
    bias.build,
    allowed_tokens.build,
    min_tokens.build,
    penalties.build,
    no_repeat_ngram.build,
    dry.build,
)


def build_processors(new: NewRow, num_token_ids: int) -> tuple[LogitsProcessor, ...]:
    """Those that the sequence needs; none for most."""
    built = (build(new, num_token_ids) for build in REGISTRY)
    return tuple(processor for processor in built if processor is not None)
