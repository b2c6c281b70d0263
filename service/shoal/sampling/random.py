"""Counter-based random numbers: a pure function of (seed, position), so that a sequence draws the
same ones alone, in any batch, and again after a preemption.

Two rounds of splitmix64's finalizer (Steele, Lea and Flood, 2014) over seed and position.
"""

import numpy as np

from shoal.sampling.arrays import Float64, UInt64

MASK_64 = (1 << 64) - 1
"""Seeds are taken modulo 2**64."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TO_UNIT = np.float64(2.0**-53)


def uniforms(seeds: UInt64, positions: UInt64) -> Float64:
    """One number in [0, 1) per row, with 53 random bits."""
    with np.errstate(over="ignore"):
        mixed = _mix(_mix(seeds + _GOLDEN) + positions * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * _TO_UNIT


def _mix(z: UInt64) -> UInt64:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))
