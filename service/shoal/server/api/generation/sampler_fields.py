"""The request fields of single sampling options, and how they become SamplingParams.

Options that speak of texts (`logit_bias` by text, DRY's breakers) are resolved to token ids with
the model's vocabulary.
"""

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.protocol.params import SamplingParams
from shoal.server.api.generation.number_types import Int, TokenIds
from shoal.server.errors import FieldProblem
from shoal.server.off_loop import INLINE_CHARS, off_loop
from shoal.text.task import check_token_ids
from shoal.text.text_model import TextModel
from shoal.text.tokenizer import Tokenizer

MAX_BIASES = 1024
MAX_BIAS_CHARS = 200
MAX_BREAKERS = 64
MAX_BREAKER_CHARS = 100
DEFAULT_BREAKERS = ("\n", ":", '"', "*")

Biases = Annotated[
    dict[int | str, float],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number"}}),
]


class LoopLimits(BaseModel):
    """When an output counts as a loop."""

    model_config = ConfigDict(strict=True, extra="forbid")

    min_repeats: Int = Field(8, ge=2, le=64, description="So many times the same block.")
    max_period: Int = Field(32, ge=1, le=256, description="Most tokens of the block.")


def _to_limits(value: Any) -> Any:
    """true takes the defaults, false is not given."""
    return ({} if value else None) if isinstance(value, bool) else value


OnLoop = Annotated[
    LoopLimits | None,
    BeforeValidator(_to_limits),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, LoopLimits.model_json_schema()]}),
]


class SamplerFields(BaseModel):
    """Options beyond temperature and truncation, in the order of the API's table."""

    logit_bias: Biases = Field(
        {}, description="Token id, or a text that is one token, to -100..100; -100 bans."
    )
    no_repeat_ngram_size: Int = Field(
        0, ge=0, le=64, description="No n-gram of this size comes twice; 0 = off."
    )
    dry_multiplier: float = Field(0.0, ge=0, le=1e6, description="Of the DRY penalty; 0 = off.")
    dry_base: float = Field(1.75, ge=1, le=1e6)
    dry_allowed_length: Int = Field(
        2, ge=1, le=2**31 - 1, description="Repetitions up to one token less are free."
    )
    dry_sequence_breakers: list[str] | None = Field(
        None,
        max_length=MAX_BREAKERS,
        description='Texts whose tokens end a repetition; default newline, ":", \'"\', "*".',
    )
    stop_on_loop: OnLoop = Field(
        None, description="End with stop_reason loop when the output repeats itself."
    )
    allowed_token_ids: TokenIds = Field([], description="Sample only these; empty = all.")

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _bias_map(cls, value: Any) -> dict[int | str, float]:
        if not isinstance(value, dict):
            raise FieldProblem("must be an object from token id or text to bias")
        if len(value) > MAX_BIASES:
            raise FieldProblem(f"may hold at most {MAX_BIASES} entries; got {len(value)}")
        biases: dict[int | str, float] = {}
        for key, bias in value.items():
            if isinstance(bias, bool) or not isinstance(bias, (int, float)):
                raise FieldProblem(f"value of {key[:40]} must be a number")
            if not -100 <= bias <= 100:
                raise FieldProblem(f"values must be between -100 and 100; got {bias}")
            biases[_bias_key(key)] = float(bias)
        return biases

    @field_validator("dry_sequence_breakers")
    @classmethod
    def _breaker_texts(cls, value: list[str] | None) -> list[str] | None:
        if any(not 1 <= len(text) <= MAX_BREAKER_CHARS for text in value or ()):
            raise FieldProblem(f"strings must have 1 to {MAX_BREAKER_CHARS} characters")
        return value


async def with_samplers(
    sampling: SamplingParams, fields: SamplerFields, model: TextModel, loaded: LoadedModel
) -> SamplingParams:
    """Adds these options to the others. Raises InvalidRequest for an id outside the vocabulary and
    for a text that is no token."""
    biases = await _biases(fields.logit_bias, model)
    check_token_ids(list(biases), loaded, param="logit_bias")
    allowed_ids = await off_loop(
        len(fields.allowed_token_ids), lambda: _allowed_ids(fields.allowed_token_ids, loaded)
    )
    breaker_ids: tuple[int, ...] = ()
    if fields.dry_multiplier > 0:
        breakers = fields.dry_sequence_breakers
        breaker_ids = await off_loop(
            INLINE_CHARS + 1, lambda: _breaker_ids(breakers, model.tokenizer)
        )
    return msgspec.structs.replace(
        sampling,
        logit_bias=tuple(sorted(biases.items())),
        allowed_token_ids=allowed_ids,
        no_repeat_ngram_size=fields.no_repeat_ngram_size,
        dry_multiplier=fields.dry_multiplier,
        dry_base=fields.dry_base,
        dry_allowed_length=fields.dry_allowed_length,
        dry_breaker_ids=breaker_ids,
    )


def _allowed_ids(token_ids: list[int], loaded: LoadedModel) -> tuple[int, ...]:
    check_token_ids(token_ids, loaded, param="allowed_token_ids")
    return tuple(sorted(set(token_ids)))


def _bias_key(key: str) -> int | str:
    """Digits are a token id, everything else is a text."""
    if key.isascii() and key.isdecimal():
        if len(key) > 10:
            raise FieldProblem(f"holds the token id {key[:40]}, which no vocabulary has")
        if key[0] == "0" and key != "0":
            raise FieldProblem(f"holds the token id {key}; write it without leading zeros")
        return int(key)
    if not 1 <= len(key) <= MAX_BIAS_CHARS:
        raise FieldProblem(f"keys must be token ids or texts of 1 to {MAX_BIAS_CHARS} characters")
    return key


async def _biases(given: dict[int | str, float], model: TextModel) -> dict[int, float]:
    texts = [key for key in given if isinstance(key, str)]
    # A text may need a look through the whole vocabulary.
    ids = await off_loop(
        INLINE_CHARS + 1 if texts else 0,
        lambda: {text: _bias_id(text, model) for text in texts},
    )
    biases: dict[int, float] = {}
    for key, bias in given.items():
        token_id = ids[key] if isinstance(key, str) else key
        if token_id in biases and biases[token_id] != bias:
            raise InvalidRequest(
                f"logit_bias names token {token_id} twice, with different biases",
                param="logit_bias",
            )
        biases[token_id] = bias
    return biases


def _bias_id(text: str, model: TextModel) -> int:
    token_id = model.tokenizer.search.id_of(text)
    if token_id is not None:
        return token_id
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    names = ", ".join(f"{i} ({model.tokenizer.token_name(i)!r})" for i in ids[:8])
    raise InvalidRequest(
        f"logit_bias: {text[:40]!r} is {len(ids)} tokens of model {model.name}: {names}",
        param="logit_bias",
        hint="a key is a token id, or a text that is exactly one token",
    )


def _breaker_ids(breakers: list[str] | None, tokenizer: Tokenizer) -> tuple[int, ...]:
    """All tokens whose text has a breaker in it."""
    found: set[int] = set()
    for text in DEFAULT_BREAKERS if breakers is None else breakers:
        ids = tokenizer.search.ids_with(text)
        if not ids and breakers is not None:
            raise InvalidRequest(
                f"dry_sequence_breakers: {text[:40]!r} is in no single token of this model",
                param="dry_sequence_breakers",
                hint="take a shorter text",
            )
        found.update(ids)
    return tuple(sorted(found))
