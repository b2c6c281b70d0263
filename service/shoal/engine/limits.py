"""What bounds a model's steps and sequences."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the plans of one model."""

    num_blocks: int
    block_size: int
    max_batch_size: int
    """Rows of a step."""
    token_budget: int
    """Tokens of a step."""
    max_model_len: int
    """Tokens of a sequence; no more than all blocks hold."""
    vocab_size: int
    max_preemptions: int
    prefix_cache: bool
    drafts: bool
    """May steps have drafts?"""
    lookup_drafts: bool = True
    """Also in rows without a grammar, from the sequence itself?"""
    whole_prompts: bool = False
    """Is each prompt computed in one step? Then `token_budget` is at least `max_model_len`, and
    no prefix is cached."""

    @property
    def max_rows(self) -> int:
        """Never more rows than budget, so that every row can get a token in every step."""
        return min(self.max_batch_size, self.token_budget)
