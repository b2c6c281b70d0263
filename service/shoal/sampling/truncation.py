"""top_k, top_p, typical_p and min_p: which tokens of a row may be drawn, and the draw among them.

All rows are handled together, and no row's result depends on another: every sum runs along one
row in a fixed order, and a longer head than a row needs changes nothing in its beginning. Scaled
logits have their best at 0.
"""

from collections.abc import Callable, Sequence

import numpy as np

from shoal.protocol.params import SamplingParams
from shoal.sampling.arrays import Float32, Float64, Int64
from shoal.sampling.draw import first_above

_HEADS = (256, 1024)
"""Lengths of the sorted head that are tried before a whole row is sorted."""
Observe = Callable[[str, Int64, Float64], None]
"""Told each step's name, and the probabilities it left of these ids, best first."""
_NO_LIMIT = 1 << 31
"""A top_k of any size must fit an array; no vocabulary is as large."""


def is_truncated(params: SamplingParams) -> bool:
    """Can any token be cut off?"""
    return params.top_k > 0 or params.top_p < 1.0 or params.typical_p < 1.0 or params.min_p > 0.0


def best_tokens(values: Float32, k: int) -> tuple[Int64, Float32]:
    """(ids, values) [R, k] of each row's k largest, best first; of equal values the lower id.
    values [R, width], none above 0, no NaN."""
    num_rows, width = values.shape
    ids = np.broadcast_to(np.arange(width, dtype=np.uint64), values.shape)
    if 0 < k < width:
        kth = np.partition(values, width - k, axis=1)[:, width - k, None]
        places = np.flatnonzero(values >= kth)
        if len(places) == num_rows * k:  # no equal values at the edge
            values = values.reshape(-1)[places].reshape(num_rows, k)
            ids = (places % width).astype(np.uint64).reshape(num_rows, k)
    # One number to sort by: the size of the value, then the id.
    keys = np.abs(values).view(np.uint32).astype(np.uint64) << np.uint64(32) | ids
    if keys.shape[1] > k:
        keys = np.partition(keys, k, axis=1)[:, :k]
    keys = np.sort(keys, axis=1)
    sizes = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), -sizes


def draw_truncated(
    scaled: Float32, row_params: Sequence[SamplingParams], uniforms: Float64
) -> Int64:
    """A token a row from what the truncations leave of scaled [R, width], at the share `uniforms`
    [R] of the mass in order of probability."""
    width = scaled.shape[1]
    tokens = np.zeros(len(row_params), np.int64)
    left = np.arange(len(row_params))
    for size in _head_sizes(row_params, width):
        rows = scaled if len(left) == len(row_params) else scaled[left]
        head = _Head(rows, [row_params[row] for row in left.tolist()], size)
        tokens[left] = head.draw(uniforms[left])
        left = left[~head.is_decided]
        if len(left) == 0:
            break
    return tokens


def observe_truncations(scaled: Float32, params: SamplingParams, observe: Observe) -> None:
    """Every truncation of one row scaled [1, width], with all that each step leaves."""
    for size in _head_sizes([params], scaled.shape[1]):
        head = _Head(scaled, [params], size, keeps_steps=True)
        if head.is_complete[0]:
            break
    for name, probs in head.steps:
        observe(name, head.ids[0], probs[0])


def _head_sizes(row_params: Sequence[SamplingParams], width: int) -> list[int]:
    """Lengths to try; top_k of all rows bounds the first where it can."""
    first = max(params.top_k or width for params in row_params)
    return [size for size in (min(first, _HEADS[0]), *_HEADS[1:]) if size < width] + [width]


class _Head:
    """The best tokens of each row, and which of them the truncations keep."""

    def __init__(
        self,
        scaled: Float32,
        row_params: list[SamplingParams],
        size: int,
        *,
        keeps_steps: bool = False,
    ) -> None:
        self.steps: list[tuple[str, Float64]] = []
        """What each step left, if they are to be kept."""
        self._keeps_steps = keeps_steps
        self.ids, values = best_tokens(scaled, size)
        self.probs = np.exp(values.astype(np.float64))  # not normalised: the best has 1
        top_k = np.array([min(params.top_k, _NO_LIMIT) for params in row_params])
        top_k[top_k >= scaled.shape[1]] = 0
        top_p = np.array([params.top_p for params in row_params])
        min_p = np.array([params.min_p for params in row_params])
        typical = np.array([params.typical_p < 1.0 for params in row_params])
        # 1. top_k
        has_top_k = (top_k > 0) & (top_k <= size)
        self.probs[np.arange(size) >= np.where(has_top_k, top_k, size)[:, None]] = 0
        self._end_step("top_k")
        # 2. top_p (nucleus, Holtzman et al., 2020): the fewest that reach that share
        sums = np.cumsum(self.probs, axis=1)
        is_whole = has_top_k | (size == scaled.shape[1])
        targets = top_p * sums[:, -1]
        if not is_whole.all():
            masses = np.exp(scaled).sum(axis=1).astype(np.float64)
            targets = np.where(is_whole, targets, top_p * masses)
        self.probs[:, 1:][(sums[:, :-1] >= targets[:, None]) & (top_p < 1.0)[:, None]] = 0
        self._end_step("top_p")
        # A top_k beyond this head leaves the mass that top_p is a share of unknown.
        is_known = (top_k <= size) | (top_p >= 1.0)
        is_reached = (top_p < 1.0) & (sums[:, -1] >= targets)
        is_cut = ~typical & (self.probs[:, -1] < min_p)
        self.is_decided = is_whole | (is_known & (is_reached | is_cut))
        # What is decided by min_p alone may lack tokens that top_p leaves.
        self.is_complete = self.is_decided & (is_whole | is_reached | (top_p >= 1.0))
        # 3. typical_p
        for row in np.flatnonzero(typical & self.is_decided):
            keep_typical(self.probs[row], row_params[row].typical_p)
        self._end_step("typical_p")
        # 4. min_p (Nguyen et al., 2024): out goes what is less likely than that share of the best
        self.probs[self.probs < (min_p * self.probs.max(axis=1))[:, None]] = 0
        self._end_step("min_p")

    def _end_step(self, name: str) -> None:
        if self._keeps_steps:
            self.steps.append((name, self.probs.copy()))

    def draw(self, uniforms: Float64) -> Int64:
        """Token ids [R]; meaningless for rows that are not decided."""
        sums = np.cumsum(self.probs, axis=1)
        places = first_above(sums, uniforms * sums[:, -1])
        tokens: Int64 = self.ids[np.arange(len(places)), places]
        return tokens


def keep_typical(probs: Float64, typical_p: float) -> None:
    """Keeps the tokens whose surprise is closest to the entropy until their share reaches
    typical_p (locally typical sampling, Meister et al., 2022). In place, on one row."""
    kept = np.flatnonzero(probs)
    share = probs[kept] / probs[kept].sum()
    surprise = -np.log(share)
    distance = np.abs(surprise - (share * surprise).sum())
    order = np.argsort(distance, kind="stable")
    count = int(np.searchsorted(np.cumsum(share[order]), typical_p, side="left")) + 1
    probs[kept[order[count:]]] = 0
