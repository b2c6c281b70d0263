"""Fields of a generate request, and their translation to the body of a completion."""

from typing import Any, ClassVar

from pydantic import Field, field_validator

from shoal.errors import InvalidRequest
from shoal.server.api.completions.schema import CompletionRequest
from shoal.server.api.dialect import (
    SHAPE_FIELDS,
    DialectFields,
    NeutralValues,
    Part,
    given,
    refuse_unsupported,
)
from shoal.server.api.generation.fields import Int
from shoal.server.errors import FieldProblem, printable

OUR_NAMES = {
    "prompt": "inputs",
    "max_tokens": "parameters.max_new_tokens",
    "model": "parameters.adapter_id",
    "response_format": "parameters.grammar",
    "structured_outputs": "parameters.grammar",
    ".json_schema.schema": ".value",
    ".regex": ".value",
    "truncate_prompt_tokens": "parameters.truncate",
    "logprobs": "parameters.top_n_tokens",
    **{name: f"parameters.{name}" for name in ("best_of", "stop", "seed", "typical_p")},
}
"""Our fields -> the request's, for errors."""

_SAMPLING = ("temperature", "top_k", "top_p", "typical_p")


class Grammar(Part):
    """What the text must look like."""

    type: str
    value: Any = None

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("json", "json_object", "json_schema", "regex"):
            raise FieldProblem("must be json, json_object, json_schema or regex")
        return value

    def completion_fields(self) -> dict[str, Any]:
        """The same as fields of ours."""
        if self.type == "regex":
            return {"structured_outputs": {"regex": self.value}}
        schema = self.value
        if self.type == "json_schema" and isinstance(schema, dict):
            schema = schema.get("schema", schema)
        json_schema = {"name": "output", "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


class Parameters(Part):
    """How the text is generated, and what of it is reported."""

    adapter_id: str | None = Field(default=None, max_length=256)
    best_of: Int = Field(default=1, ge=1)
    decoder_input_details: bool = False
    details: bool = False
    do_sample: bool = Field(default=False, description="False, and no sampling option = greedy.")
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    grammar: Grammar | None = None
    max_new_tokens: Int = Field(default=100, ge=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10)
    return_full_text: bool = False
    seed: Int | None = None
    stop: list[str] = Field(default=[], fail_fast=True)
    temperature: float | None = Field(default=None, gt=0, le=2)
    top_k: Int | None = Field(default=None, ge=1)
    top_n_tokens: Int = Field(default=0, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    truncate: Int | None = Field(default=None, ge=1)
    typical_p: float | None = Field(default=None, gt=0, le=1)
    watermark: bool = False

    @field_validator("watermark")
    @classmethod
    def _has_no_watermark(cls, value: bool) -> bool:
        if value:
            raise FieldProblem("is not supported by this server", code="unsupported_parameter")
        return value

    @property
    def samples(self) -> bool:
        return self.do_sample or any(getattr(self, name) is not None for name in _SAMPLING)


class GenerateRequest(DialectFields):
    """Body of a generate request."""

    inputs: str
    parameters: Parameters = Field(default_factory=lambda: Parameters())
    stream: bool = Field(False, description="Only of POST /: stream the answer.")
    model: str | None = Field(None, max_length=256, description="Ours: one of several models.")

    neutral: ClassVar[NeutralValues] = {"prompt": (), "messages": (), "tools": ([],)}

    def completion_body(self, *, stream: bool, default_model: str) -> dict[str, Any]:
        """The body of the same request to our completions."""
        asked = self.parameters
        self._check_combinations(stream=stream)
        shows_tokens = stream or asked.details or asked.best_of > 1
        return {
            **self._unnamed(),
            "model": asked.adapter_id or self.model or default_model,
            "prompt": self.inputs,
            "stream": stream,
            "max_tokens": asked.max_new_tokens,
            "best_of": asked.best_of,
            "stop": asked.stop,
            **({"logprobs": asked.top_n_tokens} if shows_tokens else {}),
            **({"prompt_logprobs": 0} if asked.decoder_input_details else {}),
            **({} if asked.samples else {"temperature": 0}),
            **{name: value for name in (*_SAMPLING, "seed", "frequency_penalty",
                                        "repetition_penalty")
               if (value := getattr(asked, name)) is not None},
            **given(truncate_prompt_tokens=asked.truncate),
            **(asked.grammar.completion_fields() if asked.grammar else {}),
        }  # fmt: skip

    def _check_combinations(self, *, stream: bool) -> None:
        best_of = "parameters.best_of"
        if self.parameters.best_of > 1 and not self.parameters.samples:
            raise InvalidRequest("best_of above 1 needs do_sample: greedy candidates are equal",
                                 param=best_of)  # fmt: skip
        if stream and self.parameters.decoder_input_details:
            name = "decoder_input_details"
            raise InvalidRequest(f"{name} cannot be streamed", param=f"parameters.{name}")
        if stream and self.parameters.best_of > 1:
            raise InvalidRequest("best_of above 1 cannot be streamed", param=best_of)

    def _unnamed(self) -> dict[str, Any]:
        """Fields that the schema does not name, those in `parameters` too: options of ours."""
        unnamed = self.extras()
        for name, value in (self.parameters.model_extra or {}).items():
            refuse_unsupported(SHAPE_FIELDS, name, value)
            unnamed[
                name if name in CompletionRequest.model_fields else f"parameters.{printable(name)}"
            ] = value
        return unnamed
