"""The request fields shared by completions and chat: types, ranges, defaults.

Types are strict: strings and booleans are not accepted as numbers; 1.0 is accepted as 1.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from shoal.config import Settings
from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.server.api.generation.beam_fields import BeamFields
from shoal.server.api.generation.number_types import Int as Int
from shoal.server.api.generation.sampler_fields import SamplerFields
from shoal.server.api.generation.structured import StructuredFields
from shoal.server.errors import MAX_PROBLEMS, FieldProblem, printable

MAX_STOPS = 32
MAX_STOP_CHARS = 1000
MAX_STOP_IDS = 256
MAX_IGNORED_NAMES = 20
MAX_INCLUDED = 32
INCLUDABLE = ("seed", "timings", "sampling", "usage_cost", "trace", "queue", "token_ids")


# Known fields that are not supported, with the values that have no effect and are accepted.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "lora": (),
    "adapter": (),
}


class StreamOptions(BaseModel):
    """What a stream includes besides text."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_progress: bool = Field(
        False,
        description="Until the first token, chunks without choices say every half second how far "
        "the first choice is: its place in the queue, then how much of its prompt is computed.",
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        return without_nulls(value)


class GenerationFields(SamplerFields, BeamFields, StructuredFields):
    """Sampling, stopping and output fields, in the order of the API's table."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str | None = Field(None, max_length=256, description="Model id.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 = greedy.")
    top_p: float | None = Field(None, ge=0, le=1)
    n: Int = Field(1, ge=1, description="Choices per prompt.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: tuple[str, ...] = Field((), description="A string or up to 32 strings.")
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    seed: Int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    user: str | None = Field(None, max_length=256)
    top_k: Int | None = Field(None, ge=-1, description="0 and -1 = off.")
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    min_tokens: Int = Field(0, ge=0)
    truncate_prompt_tokens: Int | None = Field(
        None, ge=-1, description="Keep the last so many prompt tokens; -1 = as many as fit."
    )
    stop_token_ids: list[Int] = Field([], max_length=MAX_STOP_IDS)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    priority: Int = Field(0, ge=-10, le=10, description="Lower runs first.")
    max_time: float | None = Field(None, gt=0, description="Seconds until the answer is cut.")
    cache_salt: str | None = Field(None, min_length=1, max_length=1024)
    cache_prompt: bool = True
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    include: list[str] = Field(
        [], max_length=MAX_INCLUDED, description=f"Any of {', '.join(INCLUDABLE)}."
    )
    strict: bool = Field(False, description="Refuse unknown fields.")

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_list(cls, value: Any) -> tuple[str, ...]:
        stops = [value] if isinstance(value, str) else value
        if isinstance(stops, list) and len(stops) > MAX_STOPS:
            raise FieldProblem(f"may hold at most {MAX_STOPS} strings; got {len(stops)}")
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise FieldProblem("must be a string or an array of strings")
        if any(not 1 <= len(stop) <= MAX_STOP_CHARS for stop in stops):
            raise FieldProblem(f"strings must have 1 to {MAX_STOP_CHARS} characters")
        return tuple(stops)

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _keeps_some(cls, value: int | None) -> int | None:
        if value == 0:
            raise FieldProblem("must be -1 or at least 1; got 0")
        return value

    @field_validator("include")
    @classmethod
    def _known_items(cls, value: list[str]) -> list[str]:
        for item in value:
            if item not in INCLUDABLE:
                raise FieldProblem(f"may hold {', '.join(INCLUDABLE)}; got {item[:40]!r}")
        return value

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        return self

    @property
    def wants_progress(self) -> bool:
        """Shall the stream say how far it is, before the first token?"""
        return self.stream_options is not None and self.stream_options.include_progress

    def neutral_values(self) -> dict[str, tuple[Any, ...]]:
        """Known but unsupported fields, with the values that are accepted."""
        return _NEUTRAL

    def extra_fields(self) -> list[tuple[str, Any]]:
        """(name, value) of every field that is not in the schema, including nested ones."""
        extras = list((self.model_extra or {}).items())
        if self.stream_options is not None:
            nested = (self.stream_options.model_extra or {}).items()
            extras += [(f"stream_options.{name}", value) for name, value in nested]
        return extras

    def check_extra_fields(self) -> list[str]:
        """Names of unknown fields, for X-Ignored-Params. Raises UnsupportedParameter for an
        unsupported field in use, InvalidRequest for an unknown field if `strict` is set."""
        unknown: dict[str, None] = {}
        neutral = self.neutral_values()
        for name, value in self.extra_fields():
            if name in neutral:
                if not any(_json_equal(value, ok) for ok in neutral[name]):
                    raise UnsupportedParameter(
                        f"{name} is not supported by this server", param=name
                    )
            elif len(unknown) < MAX_IGNORED_NAMES:
                unknown[printable(name)] = None
        return named_unknown(unknown, strict=self.strict)

    def check_limits(self, settings: Settings) -> None:
        """Checks the limits set by the operator. Raises InvalidRequest."""
        if self.n > settings.max_n:
            raise InvalidRequest(
                f"n must be between 1 and {settings.max_n}; got {self.n}", param="n"
            )


def named_unknown(names: Iterable[str], *, strict: bool) -> list[str]:
    """The first unknown fields. Raises InvalidRequest if there are any under `strict`."""
    unknown = list(islice(names, MAX_IGNORED_NAMES))
    if unknown and strict:
        raise InvalidRequest(
            f"unknown parameter: {', '.join(unknown[:MAX_PROBLEMS])}",
            code="unknown_parameter",
            param=unknown[0],
        )
    return unknown


def _json_equal(value: Any, neutral: Any) -> bool:
    """Equality of JSON values: 0.0 equals 0, but false does not."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def without_nulls(value: Any) -> Any:
    """Removes nulls, since null always means not given."""
    if not isinstance(value, dict):
        return value
    return {name: item for name, item in value.items() if item is not None}
