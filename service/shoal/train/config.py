"""A recipe: every choice of one training run, parsed from TOML into frozen dataclasses.

Needs no torch and reads no data: `corpora.py` does that. A mistake in a recipe is a `RecipeError`
that names the field, its value and what was expected.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

TokenizerStyle = Literal["prose", "fields"]


class RecipeError(ValueError):
    """A recipe, its data or a base folder cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama network. Defaults give about 4 million parameters."""

    hidden_size: int = 256
    intermediate_size: int = 704
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 64
    context: int = 512  # tokens; longer documents are cut
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    dropout: float = 0.0  # of each attention's and MLP's output; training only

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise RecipeError(
                f"model.num_kv_heads = {self.num_kv_heads} does not divide "
                f"model.num_heads = {self.num_heads}"
            )
        if self.head_dim % 2:
            raise RecipeError(f"model.head_dim = {self.head_dim} is odd; rotary pairs need it even")


@dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """How the byte-level BPE is trained. `fields` splits a word alike with and without a space
    before it, so that a value copied from a request into JSON is the same tokens in both places."""

    vocab_size: int = 4096
    style: TokenizerStyle = "prose"


@dataclass(frozen=True, slots=True)
class Source:
    """One data file of a recipe: where it is, what it is, how often it is read."""

    file: str
    format: str = "text"  # or one that the recipe's own code reads
    name: str = ""  # of its held-out figures; empty: the file's name
    background: bool = False  # for the tokenizer and initial weights only, never trained on
    title: str = ""
    origin: str = ""  # where it was published
    licence: str = ""
    sha256: str = ""  # empty: not checked (a user's own file)
    repeat: float = 1.0  # times each document is read in one epoch; may be a fraction
    keep: dict[str, list[str]] = field(default_factory=dict)  # field -> allowed values
    hold_out: dict[str, list[str]] = field(default_factory=dict)  # field -> values
    hold_out_share: float = 0.0  # a fixed share by hash of the text, for sources without splits
    options: dict[str, Any] = field(default_factory=dict)  # what only this format understands


@dataclass(frozen=True, slots=True)
class Schedule:
    """Length, batch, learning rates: warm-up, stable, linear decay to zero (Hu et al. 2024)."""

    tokens: int = 10_000_000  # prompts included, padding excluded
    batch_tokens: int = 4096  # per optimizer step, padding included
    matrix_lr: float = 0.02  # Muon
    other_lr: float = 0.004  # AdamW: embedding and norms
    weight_decay: float = 0.05
    warmup_steps: int = 50
    decay_share: float = 0.35  # of all steps
    clip: float = 1.0  # largest norm of the gradient
    prompt_weight: float = 0.0  # weight of prompt tokens in the loss
    seed: int = 1
    evaluate_every: int = 200  # steps
    checkpoint_every_s: float = 180.0

    def __post_init__(self) -> None:
        if not 0 <= self.decay_share <= 1:
            raise RecipeError(f"schedule.decay_share = {self.decay_share} is not within 0 and 1")
        for name in ("tokens", "batch_tokens"):
            if getattr(self, name) < 1:
                raise RecipeError(f"schedule.{name} = {getattr(self, name)} is not positive")


@dataclass(frozen=True, slots=True)
class Sampling:
    """Defaults written into generation_config.json."""

    do_sample: bool = True
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 400


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run, besides the data itself."""

    name: str
    summary: str = ""
    code: Path | None = None  # Python of the recipe's own, run when it is trained: see `hooks.py`
    grow: bool = False  # a base with fewer layers or narrower MLPs is grown to `model` first
    read_twice: bool = False  # the chat template writes user turns twice: see `pieces.py`
    sources: tuple[Source, ...] = ()
    model: ModelShape = field(default_factory=ModelShape)
    tokenizer: TokenizerChoice = field(default_factory=TokenizerChoice)
    schedule: Schedule = field(default_factory=Schedule)
    sampling: Sampling = field(default_factory=Sampling)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file, or the recipe.toml of a folder. Runs none of the recipe's code.

    A recipe with `extends = "other.toml"` starts from that file, by a path relative to its own, and
    overrides what it sets itself; tables such as [schedule] are merged key by key.
    Raises `RecipeError` for a missing file, an unknown key or a bad value.
    """
    return parse_recipe(_merged_table(path / "recipe.toml" if path.is_dir() else path))


def _merged_table(path: Path) -> dict[str, Any]:
    table = _read_table(path)
    if "code" in table:
        table["code"] = _code_path(path, table["code"])
    if "extends" in table:
        merged = _merged_table(path.parent / str(table.pop("extends")))
        for name, value in table.items():
            both = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = {**merged[name], **value} if both else value
        table = merged
    return table


def _code_path(recipe: Path, code: object) -> Path:
    if not isinstance(code, str) or not code.endswith(".py") or Path(code).name != code:
        raise RecipeError(f"{recipe}: code = {code!r}; expected a Python file beside the recipe")
    return recipe.parent / code


def _read_table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe at {path}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def parse_recipe(table: dict[str, Any]) -> Recipe:
    """Build a `Recipe` from parsed TOML."""
    table = dict(table)
    sources = tuple(_build(Source, item, "sources") for item in table.pop("sources", []))
    groups: dict[str, Any] = {
        "model": _build(ModelShape, table.pop("model", {}), "model"),
        "tokenizer": _build(TokenizerChoice, table.pop("tokenizer", {}), "tokenizer"),
        "schedule": _build(Schedule, table.pop("schedule", {}), "schedule"),
        "sampling": _build(Sampling, table.pop("sampling", {}), "sampling"),
    }
    style = groups["tokenizer"].style
    if style not in get_args(TokenizerStyle):
        raise RecipeError(f"tokenizer.style = {style!r}; expected {get_args(TokenizerStyle)}")
    return _build(Recipe, {**table, "sources": sources, **groups}, "recipe")


Group = TypeVar("Group")


def _build(kind: type[Group], table: dict[str, Any], where: str) -> Group:
    known = {item.name for item in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}.{key} is not known; known are {', '.join(sorted(known))}")
    try:
        return kind(**table)
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from error
