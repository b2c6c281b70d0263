"""The table of encoders: what Shoal computes for small random models of each family, compared with
`transformers` and with itself. Markdown, by

    python -m tests.model.encoder_table --out docs/encoders.md

Exits with 1 when any cell is wrong, and marks it with a cross.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import transformers

from shoal.kernels.native import Dtype
from shoal.model.loader import Checkpoint, load_checkpoint
from shoal.runner.inputs import Float32
from tests.fakes.tiny_encoders import write_encoder
from tests.model.encoder_cases import CASES, TOKENS, ours, theirs, together
from tests.model.family_checks import MAX_DIFFERENCE, Outcome, same_bits
from tests.model.family_table import cell, facts, row

MIN_COSINE: dict[Dtype, float] = {"bfloat16": 0.999, "int8": 0.995, "int4": 0.9}
LENGTHS = (1, 30, 17, 41, 50)
"""Tokens of the sequences that are computed alone and together."""


@dataclass(frozen=True)
class Case:
    """A small random model in a folder."""

    folder: Path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return load_checkpoint(self.folder, lambda share: None)

    @cached_property
    def vectors(self) -> dict[str, Float32]:
        """[tokens, hidden] of each backend in float32."""
        return {kind: ours(self.checkpoint, kind, TOKENS) for kind in ("native", "torch")}


def against_transformers(case: Case) -> Outcome:
    """The worse of both backends."""
    network = transformers.AutoModel.from_pretrained(case.folder, dtype=torch.float32).eval()
    wanted = theirs(network, TOKENS)
    return close(max(float(np.abs(found - wanted).max()) for found in case.vectors.values()))


def native_and_torch(case: Case) -> Outcome:
    return close(float(np.abs(case.vectors["native"] - case.vectors["torch"]).max()))


def close(difference: float) -> Outcome:
    is_right = difference <= MAX_DIFFERENCE  # NaN is not
    return Outcome(not is_right, difference, f"{difference:.0e}")


def rounded(dtype: Dtype) -> Callable[[Case], Outcome]:
    """The check of weights in that format: cosine of the mean over tokens with that of float32."""

    def check(case: Case) -> Outcome:
        exact = case.vectors["native"].mean(0)
        found = ours(case.checkpoint, "native", TOKENS, dtype).mean(0)
        cosine = float(exact @ found / np.linalg.norm(exact) / np.linalg.norm(found))
        return Outcome(not cosine >= MIN_COSINE[dtype], 1 - cosine, f"{cosine:.4f}")

    return check


def identity(case: Case) -> Outcome:
    """Sequences alone on one thread, and shuffled together on two, in every number format."""
    sequences = [TOKENS[-length:] for length in LENGTHS]
    pairs = []
    for dtype in ("float32", *MIN_COSINE):
        alone = [ours(case.checkpoint, "native", each, dtype) for each in sequences]
        found = together(case.checkpoint, sequences, dtype, num_threads=2)
        pairs += list(zip(alone, found, strict=True))
    return same_bits(pairs)


CHECKS: Mapping[str, Callable[[Case], Outcome]] = {
    "float32": against_transformers,
    "native = PyTorch": native_and_torch,
    "bf16": rounded("bfloat16"),
    "int8": rounded("int8"),
    "int4": rounded("int4"),
    "identity": identity,
}
"""Columns of the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="encoder_table")
    parser.add_argument("--out", type=Path, help="file to write; default: standard output")
    args = parser.parse_args(arguments)
    table = {family: check_family(family) for family in CASES}
    lines = [*HEAD.format(facts=facts(), **LIMITS).splitlines(), ""]
    lines += [row(["family", *CHECKS]), row(["---"] * (len(CHECKS) + 1))]
    for family, outcomes in table.items():
        lines.append(row([f"`{family}`", *(cell(outcomes[check]) for check in CHECKS)]))
    text = "\n".join(lines) + "\n"
    if args.out:
        args.out.write_text(text)
    else:
        print(text, end="")
    return int("✗" in text.partition("| family")[2])


def check_family(family: str) -> dict[str, Outcome]:
    """Check -> the worst outcome over the family's cases."""
    found: dict[str, list[Outcome]] = {check: [] for check in CHECKS}
    for changes in CASES[family].values():
        with TemporaryDirectory() as folder:
            case = Case(write_encoder(Path(folder), family, **changes))
            for name, check in CHECKS.items():
                found[name].append(check(case))
    return {name: max(outcomes) for name, outcomes in found.items()}


LIMITS = {
    "tokens": len(TOKENS),
    "difference": f"{MAX_DIFFERENCE:g}",
    "bf16": f"{MIN_COSINE['bfloat16']:g}",
    "int8": f"{MIN_COSINE['int8']:g}",
    "int4": f"{MIN_COSINE['int4']:g}",
}
HEAD = """# Encoders

Generated by `python -m tests.model.encoder_table --out docs/encoders.md`; do not edit.

{facts}

Families that make [embeddings](embeddings.md) and write no text. Each row sums up small models with
random weights and other sizes and switches of that family; a cell shows the worst of them. ✗ marks
a number beyond its limit.

- **float32**: largest difference of a number of a token's final vector from `transformers` over
  {tokens} tokens, the worse of the native kernels and PyTorch. Limit {difference}.
- **native = PyTorch**: the same of the two. Limit {difference}.
- **bf16, int8, int4**: cosine of the mean over all tokens with that of float32 weights; native
  kernels. Narrow random networks exaggerate what rounding changes: limits ({bf16}, {int8}, {int4})
  only tell wrong numbers from rounded ones.
- **identity**: sequences alone on one thread against all of them shuffled in one step on two
  threads: float32, bf16, int8 and int4 weights, native kernels.
"""

if __name__ == "__main__":
    torch.set_num_threads(1)
    output: Any = transformers.utils.logging
    output.disable_progress_bar()
    sys.exit(main())
