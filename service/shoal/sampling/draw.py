"""Temperature, and a draw in proportion to the probabilities. No row's result depends on others."""

import numpy as np

from shoal.sampling.arrays import Float32, Float64, Int64

SPAN = 64
"""Tokens summed as one before a draw looks inside; rows are padded with -inf to a multiple."""
_SMALLEST = np.finfo(np.float32).tiny


def scale(logits: Float32, temperatures: Float32) -> None:
    """Subtracts each row's maximum, then divides by its temperature: the best becomes 0 exactly,
    so any temperature above 0 is safe. In place; logits [R, width], temperatures [R]."""
    with np.errstate(over="ignore"):  # far tokens become -inf
        logits -= logits.max(axis=1, keepdims=True)
        logits /= np.maximum(temperatures, _SMALLEST)[:, None]


def draw(scaled: Float32, uniforms: Float64) -> Int64:
    """A token a row in proportion to exp(scaled) [R, width], at the share `uniforms` [R] of the
    mass in order of ids. `scaled` is overwritten; its width is a multiple of SPAN."""
    num_rows = len(scaled)
    rows = np.arange(num_rows)
    spans = np.exp(scaled, out=scaled).reshape(num_rows, -1, SPAN)
    sums = np.cumsum(spans.sum(axis=2).astype(np.float64), axis=1)  # [R, spans]
    targets = uniforms * sums[:, -1]
    chosen = first_above(sums, targets)
    before = np.where(chosen > 0, sums[rows, chosen - 1], 0.0)
    inside = np.cumsum(spans[rows, chosen].astype(np.float64), axis=1)  # [R, SPAN]
    return chosen * SPAN + first_above(inside, targets - before)


def first_above(sums: Float64, targets: Float64) -> Int64:
    """First place in each row of running sums that is above its target; where rounding put the
    target at the end, the last place that added something."""
    above = (sums <= targets[:, None]).sum(axis=1)
    last: Int64 = np.minimum(above, (sums < sums[:, -1:]).sum(axis=1))
    return last
