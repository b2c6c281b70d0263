"""The request fields of beam search, by the names vLLM gave them, and what goes with them."""

from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.protocol.params import OutputParams, SamplingParams
from shoal.server.errors import FieldProblem
from shoal.text.beam import BeamParams, EarlyStopping

_OF_SAMPLING = frozenset(
    {"seed", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty"}
)
"""Parameters that a model's defaults may set. Beam search takes the model as it is."""
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (None, 0, 1),
    "top_k": (None, 0, -1),
    "top_p": (None, 1),
    "min_p": (None, 0),
    "typical_p": (None, 1),
    "repetition_penalty": (None, 1),
    "stop": ((),),
    "stop_on_loop": (None,),
    "stream": (False,),
}
"""Fields of a request that are refused with other values."""


_UNUSED = frozenset({"dry_base", "dry_allowed_length", "dry_breaker_ids"})
"""Without effect unless another parameter is set."""


def _to_stopping(value: Any) -> EarlyStopping:
    if isinstance(value, bool):
        return value
    if value == "never":
        return "never"
    raise FieldProblem('must be true, false or "never"')


Stopping = Annotated[
    EarlyStopping,
    PlainValidator(_to_stopping),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"const": "never"}]}),
]


class BeamFields(BaseModel):
    """Of completions and chat."""

    use_beam_search: bool = Field(
        False, description="The n best of best_of (default n) beams; not streamed."
    )
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="Of beam search: above 0 prefers longer answers."
    )
    early_stopping: Stopping = Field(
        False, description="Of beam search, as in Hugging Face's generate."
    )


def beam_params(
    fields: BeamFields, width: int, sampling: SamplingParams, output: OutputParams
) -> BeamParams | None:
    """None without beam search. Raises UnsupportedParameter for an option that does not go with
    it, InvalidRequest for its own options without it."""
    if not fields.use_beam_search:
        for name in ("length_penalty", "early_stopping"):
            if getattr(fields, name) != type(fields).model_fields[name].default:
                raise InvalidRequest(f"{name} needs use_beam_search to be true", param=name)
        return None
    for name, neutral in _NEUTRAL.items():
        if getattr(fields, name) not in neutral:
            raise _does_not_go_with_it(name)
    for field in msgspec.structs.fields(SamplingParams):
        is_set = getattr(sampling, field.name) != field.default
        if is_set and field.name not in _OF_SAMPLING and field.name not in _UNUSED:
            raise _does_not_go_with_it(field.name)
    if output.prompt_logprobs is not None:
        raise _does_not_go_with_it("prompt_logprobs")
    if output.trace is not None:
        raise _does_not_go_with_it("include")
    return BeamParams(width, fields.length_penalty, fields.early_stopping)


def _does_not_go_with_it(name: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"{name} does not go with use_beam_search", param=name)
