"""How answers are drawn: flags that `chat`, `complete` and `run` share, and what /set changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.commands.terminal import fail

if TYPE_CHECKING:
    from shoal.client._params import StructuredOutputs
    from shoal.text.model_defaults import Limits

Temperature = Annotated[
    float | None,
    typer.Option(min=0, max=2, metavar="T", help="0 = always the likeliest token."),
]
TopP = Annotated[
    float | None,
    typer.Option(min=0, max=1, metavar="P", help="Only the likeliest tokens of this total."),
]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Same seed, same text.")]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="End before this text; repeatable.")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Most tokens of an answer.")
]
JsonSchema = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The text is JSON of this JSON schema.")
]
Regex = Annotated[
    str | None, typer.Option(metavar="PATTERN", help="The text matches this pattern.")
]

OFF = ("off", "default", "none")


@dataclass(slots=True)
class Sampling:
    """Fields of a request; None = not sent, so the model's own default holds."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: list[str] | None = None
    structured_outputs: StructuredOutputs | None = None

    def given(self) -> dict[str, Any]:
        """What is sent."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value not in (None, [])}

    def set(self, name: str, text: str) -> str:
        """Changes one field to a value in words and returns what it is then. Raises ValueError
        with a sentence for an unknown name or a value outside its limits."""
        if name not in settable():
            raise ValueError(f"no setting {name}; there are {', '.join(settable())}")
        if text in OFF:
            setattr(self, name, None)
            return f"{name}: the model's default"
        value: Any = [text] if name == "stop" else _number(name, text)
        setattr(self, name, value)
        return f"{name}: {text}"


def settable() -> list[str]:
    """Names that /set takes."""
    return [field.name for field in fields(Sampling) if field.name != "structured_outputs"]


def structured_outputs(schema_file: Path | None, regex: str | None) -> StructuredOutputs | None:
    """The form that --json-schema or --regex ask for. Ends the command for both at once, and for a
    file that is not JSON."""
    if schema_file is not None and regex is not None:
        fail("give --json-schema or --regex, not both", 2)
    if regex is not None:
        return {"regex": regex}
    if schema_file is None:
        return None
    try:
        return {"json": json.loads(schema_file.read_text(encoding="utf-8"))}
    except OSError as error:
        fail(f"cannot read {schema_file}: {error.strerror}", 2)
    except (ValueError, RecursionError) as error:
        fail(f"{schema_file} is not JSON: {error}", 2)


def _number(name: str, text: str) -> int | float:
    limits = _limits(name)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not limits.allow(value):
        raise ValueError(f"{name} is {limits}, or off; got {text}")
    return int(value) if limits.is_whole else value


def _limits(name: str) -> Limits:
    from shoal.text.model_defaults import SAMPLING_LIMITS, Limits

    others = {
        "presence_penalty": Limits(-2, 2),
        "frequency_penalty": Limits(-2, 2),
        "max_tokens": Limits(1, 2**31 - 1, is_whole=True),
        "seed": Limits(-(2**53), 2**53, is_whole=True),
    }
    return SAMPLING_LIMITS[name] if name in SAMPLING_LIMITS else others[name]
