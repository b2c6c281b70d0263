"""Repetition, frequency and presence penalties: tokens seen before become less likely, or more."""

import numpy as np

from shoal.protocol.params import SamplingParams
from shoal.protocol.step import NewRow
from shoal.sampling.arrays import Float32, Int32, Int64
from shoal.sampling.processors.base import LogitsProcessor, known_ids

_FLOAT32 = np.finfo(np.float32)


class Penalties(LogitsProcessor):
    """Repetition penalty (Keskar et al., 2019) divides positive and multiplies negative logits of
    all seen tokens; frequency and presence penalties count the output only."""

    may_ban = False

    def __init__(self, params: SamplingParams, prompt_token_ids: Int64) -> None:
        """`prompt_token_ids`: each once."""
        self._repetition = np.float32(max(params.repetition_penalty, float(_FLOAT32.tiny)))
        self._frequency = np.float32(params.frequency_penalty)
        self._presence = np.float32(params.presence_penalty)
        self._ids = prompt_token_ids
        self._counts: Int32 = np.zeros(len(self._ids), np.int32)  # in the output
        self._index_of = {token_id: i for i, token_id in enumerate(self._ids.tolist())}

    def apply(self, logits: Float32) -> None:
        found = logits[self._ids]
        with np.errstate(over="ignore"):  # a penalty close to 0
            divided = np.minimum(found / self._repetition, _FLOAT32.max)
        found = np.where(found > 0, divided, found * self._repetition)
        found -= self._counts * self._frequency
        found -= (self._counts > 0) * self._presence
        logits[self._ids] = found

    def accept(self, token_id: int) -> None:
        index = self._index_of.setdefault(token_id, len(self._ids))
        if index == len(self._ids):
            self._ids = np.append(self._ids, token_id)
            self._counts = np.append(self._counts, np.int32(0))
        self._counts[index] += 1


def build(new: NewRow, num_token_ids: int) -> LogitsProcessor | None:
    if not new.sampling.has_penalties:
        return None
    return Penalties(new.sampling, known_ids(new.prompt_token_ids, num_token_ids))
