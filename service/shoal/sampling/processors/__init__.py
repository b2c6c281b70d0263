"""The registry of logits processors. They are applied in its order; allow-masks come last."""

from shoal.protocol.step import NewRow
from shoal.sampling.processors import bias, min_tokens, penalties
from shoal.sampling.processors.base import Build, LogitsProcessor

REGISTRY: tuple[Build, ...] = (bias.build, min_tokens.build, penalties.build)


def build_processors(new: NewRow, num_token_ids: int) -> tuple[LogitsProcessor, ...]:
    """Those that the sequence needs; none for most."""
    built = (build(new, num_token_ids) for build in REGISTRY)
    return tuple(processor for processor in built if processor is not None)
