"""The numbers of a vector: as the engine sends them, cut, scaled, written."""

import base64
import math
import sys
from array import array

from shoal.errors import NumericalError


def read_vector(raw: bytes) -> "array[float]":
    """float32 numbers from little-endian bytes. Raises NumericalError for NaN and infinity."""
    vector = array("f", raw)
    if sys.byteorder == "big":
        vector.byteswap()
    if not math.isfinite(sum(vector)):  # of finite float32 numbers the sum in float64 is finite
        raise NumericalError("the model produced numbers that are not finite")
    return vector


def cut(vector: "array[float]", num_dimensions: int | None) -> "array[float]":
    """The first numbers, scaled to length 1; a vector of just this size stays as it is."""
    if num_dimensions is None or num_dimensions == len(vector):
        return vector
    return scaled(vector[:num_dimensions])


def scaled(vector: "array[float]") -> "array[float]":
    """Of length 1; the zero vector stays as it is."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return array("f", (x / length for x in vector)) if length > 0 else vector


def to_numbers(vector: "array[float]") -> list[float]:
    """The shortest decimal numbers that are these float32 numbers."""
    return [float(f"{x:.9g}") for x in vector]


def to_base64(vector: "array[float]") -> str:
    """Little-endian float32 numbers."""
    if sys.byteorder == "big":
        vector = vector[:]
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
