"""The weighted mean of two model folders, one trained further from the other.

The mean often does better than either: their errors differ, and the loss between them is flat
(Wortsman et al. 2022, "Model soups" and "Robust fine-tuning of zero-shot models"). `--weaken` makes
an answer rarer: it shortens the embedding row of the answer's first token, and with it the logit.
Choose share and factor on a validation split.

From the root of the repository:
`python -m models.recipes.pilotfish.averaging models/third models/fourth --out models/mean`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from shoal.checkpoint.lock import write_lock

_COPIED_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_EMBEDDING = "model.embed_tokens.weight"


def weighted_mean(
    first: dict[str, Tensor], second: dict[str, Tensor], share: float
) -> dict[str, Tensor]:
    """`share` of the second plus the rest of the first, in float32; the result has the dtypes of
    the first. Raises ValueError where names or shapes differ."""
    if first.keys() != second.keys() or any(first[n].shape != second[n].shape for n in first):
        raise ValueError("the folders hold different networks: one must be trained from the other")
    return {
        name: weight.float().lerp(second[name].float(), share).to(weight.dtype)
        for name, weight in first.items()
    }


def average_folders(
    first: Path, second: Path, out: Path, share: float, weaken: dict[str, float]
) -> None:
    """Write the mean to `out`. `weaken`: text of an answer -> factor on its first token's row.
    Raises ValueError where the folders do not belong together."""
    names = [name for name in _COPIED_FILES if (first / name).is_file()]
    if (first / "tokenizer.json").read_bytes() != (second / "tokenizer.json").read_bytes():
        raise ValueError("the folders have different tokenizers")
    weights = weighted_mean(
        load_file(first / "model.safetensors"), load_file(second / "model.safetensors"), share
    )
    tokenizer = Tokenizer.from_file(str(first / "tokenizer.json"))
    for text, factor in weaken.items():
        token = tokenizer.encode(text, add_special_tokens=False).ids[0]
        weights[_EMBEDDING][token] *= factor
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copyfile(first / name, out / name)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    write_lock(out)


def _weakening(text: str) -> tuple[str, float]:
    answer, _, factor = text.rpartition("=")
    if not answer or not 0.0 < float(factor) <= 1.0:
        raise argparse.ArgumentTypeError("expected ANSWER=FACTOR with a factor from 0 to 1")
    return answer, float(factor)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, help="model folder")
    parser.add_argument("second", type=Path, help="model folder that was trained from the first")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    parser.add_argument("--weaken", type=_weakening, action="append", default=[], metavar="TEXT=F")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    if not 0.0 <= options.share <= 1.0:
        parser.error("--share must be from 0 to 1")
    try:
        average_folders(
            options.first, options.second, options.out, options.share, dict(options.weaken)
        )
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
