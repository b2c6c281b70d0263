"""docs/training.md says what the code does."""

import re
from pathlib import Path

import typer

from shoal.cli import build_app
from shoal.train.finetune import plan, read
from shoal.train.records import ENDINGS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
OTHER_COMMANDS = {"--adapter", "--model"}
"""Flags of `shoal serve` and `shoal chat` in the guide."""


def row_of(table_key: str) -> str:
    """The line of a table that begins with this."""
    (line,) = (line for line in GUIDE.splitlines() if line.startswith(f"| `{table_key}`"))
    return line


def test_every_flag_of_the_command_is_explained_and_no_other() -> None:
    command = typer.main.get_command(build_app(with_serve_flags=False)).commands["train"]  # type: ignore[attr-defined]
    flags = {name for option in command.params for name in option.opts[:1] if name != "--help"}
    said = set(FLAG.findall(GUIDE)) - OTHER_COMMANDS
    assert said <= flags
    assert flags - said == {"--recipe", "--tokens", "--device"}, "for recipes, or told by --help"


def test_passes_by_rows() -> None:
    limits = [(f"{most:,}", f"{epochs:g}") for most, epochs in plan._EPOCHS_OF_ROWS]
    (first, passes), *between, (_, last) = limits
    said = ", ".join([f"{passes} up to {first} rows", *(f"{e} up to {m}" for m, e in between)])
    assert f"{said}, else {last} |" in row_of("--epochs")


def test_rows_in_a_step() -> None:
    said = f"rows / {plan._ROWS_PER_STEP}, as a power of 2 from {plan._MIN_BATCH} to"
    assert f"{said} {plan._MAX_BATCH}:" in row_of("--batch-size")


def test_rate() -> None:
    low, high = (f"{rate:.0e}".replace("e-0", "e-") for rate in plan._LR_RANGE)
    line = row_of("--lr")
    assert f"{plan._REFERENCE_LR:.0e}".replace("e-0", "e-") in line
    assert f"for {plan._REFERENCE_WEIGHTS / 1e6:.0f} million" in line
    assert f"from {low} to {high}; LoRA: {plan._LORA_LR_FACTOR:g} times that" in line


def test_warm_up_share_and_lengths() -> None:
    share = f"{100 * plan._WARM_UP_SHARE:.0f} % of the steps up"
    assert f"{share} ({plan._MIN_WARM_UP} to {plan._MAX_WARM_UP})" in GUIDE
    assert f"about {plan._MOST_HELD_OUT} rows; none of fewer than {plan.MIN_ROWS_TO_HOLD_OUT}" in (
        row_of("--eval-share")
    )
    assert f"at most {plan._MAX_SEQ_LEN:,}" in row_of("--seq-len")
    assert f"with {plan._MIN_HELD_OUT_TO_OBEY} or more rows held out: two " in GUIDE
    assert plan._PATIENCE == 2
    assert f"clipped to a norm of {plan._CLIP:g}, weight decay {plan._WEIGHT_DECAY:g} " in GUIDE


def test_every_ending_is_named() -> None:
    assert all(f"`{ending}`" in GUIDE for ending in ENDINGS)


def test_every_shape_is_named() -> None:
    fields = set(re.findall("`([a-z]+)`", read.KNOWN_SHAPES))
    assert fields
    assert all(f"`{name}`" in GUIDE for name in fields)
