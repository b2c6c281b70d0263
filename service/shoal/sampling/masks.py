"""Allow-masks of a batch's grammars, computed all at once, where cores are free beside the step."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from shoal.sampling.arrays import UInt32
from shoal.sampling.processors.grammar import Grammar

if TYPE_CHECKING:
    from llguidance import LLExecutor

_FEW_THREADS = 2
"""So many are busy with the step itself: handing the masks to others costs more than it gives."""


class MaskFiller:
    """`start` it as soon as the tokens before are known, `join` it before the next are sampled. No
    grammar may accept a token in between. A mask that was not started is computed when it is
    wanted."""

    def __init__(self, num_token_ids: int, num_threads: int) -> None:
        """`num_threads`: of the engine."""
        self._num_words = (num_token_ids + 1) // 32 + 1  # and bits for the end and for copies
        self._num_threads = num_threads
        self._filling: list[tuple[list[Grammar], Future[UInt32]]] = []

    def start(self, grammars: Sequence[Grammar]) -> None:
        """Computes the masks of those that need one and are not waited for yet."""
        if self._num_threads <= _FEW_THREADS:
            return
        known = {id(grammar) for filling, _ in self._filling for grammar in filling}
        wanting = [g for g in grammars if id(g) not in known and g.needs_mask]
        if wanting:
            self._filling.append((wanting, self._thread.submit(self._fill, wanting)))

    def join(self) -> None:
        """Those that were started have their masks then."""
        filling, self._filling = self._filling, []
        for grammars, masks in filling:
            for grammar, mask in zip(grammars, masks.result(), strict=True):
                grammar.set_mask(mask)

    def _fill(self, grammars: Sequence[Grammar]) -> UInt32:
        """[grammars, words]"""
        masks = np.empty((len(grammars), self._num_words), np.uint32)
        matchers = [(grammar.matcher, index) for index, grammar in enumerate(grammars)]
        self._executor.unsafe_compute_mask_ptr(
            matchers, masks.ctypes.data, masks.strides[0], len(masks)
        )
        return masks

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="masks")

    @cached_property
    def _executor(self) -> "LLExecutor":
        from llguidance import LLExecutor

        return LLExecutor(self._num_threads)
