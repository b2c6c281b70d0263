"""What a logits processor is, and how it is built."""

from collections.abc import Callable, Iterable

import numpy as np

from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32, Int64, UInt32


class LogitsProcessor:
    """One option's effect on the logits of one sequence. What it does depends on the parameters,
    the prompt and the accepted tokens alone: accepting them again after a preemption restores it.
    """

    may_ban = True
    """Can it make a token impossible? Then none is taken without it."""

    def apply(self, logits: Float32) -> None:
        """Changes logits [num_token_ids] in place, before the temperature. -inf bans a token."""

    def accept(self, token_id: int) -> None:
        """The sequence's next output token; called once for each, in their order."""

    @property
    def name(self) -> str:
        """In a trace: its module's."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def allow_mask(self) -> UInt32 | None:
        """The tokens that may come next, [ceil(num_token_ids / 32)] words: token i is bit i % 32
        of word i // 32, counted from the lowest. None allows all."""
        return None


Build = Callable[[NewRow, int], LogitsProcessor | None]
"""(sequence, ids that can be sampled) -> the processor, without the output tokens so far; None
where the sequence does not need it."""


def known_ids(token_ids: Iterable[int], num_token_ids: int) -> Int64:
    """Those that the model can sample, each once; an id it does not have can never come."""
    return np.array(sorted({i for i in token_ids if 0 <= i < num_token_ids}), np.int64)
