"""Rows that are held out: never trained on, so that their loss says what was learned."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.train.finetune.rows import Row


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(to train on, held out), each in the given order; about `share` (0 to below 1) is held out.

    A hash of a row's content and the seed decides, so that a row is on the same side whatever rows
    stand beside it and in whichever order, and equal rows are on the same side. Where all would be
    held out, none is.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share = {share} is not from 0 to below 1")
    train: list[Row] = []
    held_out: list[Row] = []
    for row in rows:
        number = int.from_bytes(row.digest(f"held out {seed} ")[:8], "big")
        (held_out if number < share * 2**64 else train).append(row)
    return (train, held_out) if train else (held_out, [])
