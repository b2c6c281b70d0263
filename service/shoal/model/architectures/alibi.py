"""ALiBi: a slope per head instead of position embeddings (Press et al., 2021)."""


def alibi_slopes(num_heads: int) -> tuple[float, ...]:
    """[num_heads]. Of 2**k heads a geometric sequence that ends at 2**-8; of another number those
    of the power of two below it, then every other one of the power of two above, from the first."""
    below = 1 << (num_heads.bit_length() - 1)
    between = _geometric(2 * below)[::2]
    return (*_geometric(below), *between[: num_heads - below])


def _geometric(num_heads: int) -> list[float]:
    return [2.0 ** (-8.0 * head / num_heads) for head in range(1, num_heads + 1)]
