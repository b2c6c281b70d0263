"""Fields that say what an answer must look like: response_format, structured_outputs and the older
guided_ names. Names and shapes as of OpenAI and vLLM."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel, Field

from shoal.errors import InvalidRequest, UnsupportedParameter
from shoal.protocol.params import SamplingParams
from shoal.server.parsing import parse_value
from shoal.text.grammar.compile import MAX_BYTES, check_size, compile_grammar
from shoal.text.grammar.spec import Choice, GrammarSpec, JsonObject, JsonSchema, Lark, Regex
from shoal.text.text_model import TextModel

MAX_CHOICES = 4096
_NOTHING: tuple[Any, ...] = (None, {}, [])
_FORMAT_KEYS = {"type", "json_schema"}
_SCHEMA_KEYS = {"name", "description", "schema", "strict"}

ReadSpec = Callable[[Any, str], GrammarSpec | None]


class StructuredFields(BaseModel):
    """What the answer must look like; at most one may be given."""

    response_format: dict[str, Any] | None = Field(
        None, description="type text, json_object, or json_schema with json_schema.schema."
    )
    structured_outputs: dict[str, Any] | None = Field(
        None, description="One of json (a schema), json_object, regex, choice, grammar (Lark)."
    )
    guided_json: Any = Field(None, description="As structured_outputs.json.")
    guided_regex: Any = Field(None, description="As structured_outputs.regex.")
    guided_choice: Any = Field(None, description="As structured_outputs.choice.")
    guided_grammar: Any = Field(None, description="As structured_outputs.grammar.")

    def grammar_spec(self) -> GrammarSpec | None:
        """None where any text may come. Raises InvalidRequest."""
        given = [
            spec
            for read, value, param in (
                (_response_format, self.response_format, "response_format"),
                (_structured_outputs, self.structured_outputs, "structured_outputs"),
                *(
                    (_OUTPUTS[name], getattr(self, f"guided_{name}"), f"guided_{name}")
                    for name in ("json", "regex", "choice", "grammar")
                ),
            )
            if value not in _NOTHING and (spec := read(value, param)) is not None
        ]
        if len(given) > 1:
            names = " and ".join(spec.param for spec in given[:2])
            raise InvalidRequest(f"{names} exclude each other; send one", param=given[1].param)
        if not given:
            return None
        check_size(given[0])
        return given[0]


async def with_grammar(
    sampling: SamplingParams,
    fields: StructuredFields,
    model: TextModel,
    copy_text: Callable[[], str | None],
) -> SamplingParams:
    """The parameters and the grammar that the fields ask for. `copy_text`: what strings with
    x-copy come from; None where nothing may be copied. Raises InvalidRequest."""
    spec = fields.grammar_spec()
    if spec is None:
        return sampling
    grammar = await compile_grammar(spec, model, copy_text())
    return msgspec.structs.replace(sampling, **grammar._asdict())


def _response_format(value: Mapping[str, Any], param: str) -> GrammarSpec | None:
    _check_keys(value, _FORMAT_KEYS, param)
    match value.get("type"):
        case "text":
            return None
        case "json_object":
            return JsonObject(param)
        case "json_schema":
            return _named_schema(value.get("json_schema"), f"{param}.json_schema")
        case None:
            raise _missing(f"{param}.type")
    raise InvalidRequest(
        f"{param}.type must be text, json_object or json_schema", param=f"{param}.type"
    )


def _named_schema(value: Any, param: str) -> GrammarSpec:
    """OpenAI's {name, schema, strict}; the schema is always kept to, whatever `strict` says."""
    if not isinstance(value, Mapping):
        raise _missing(param) if value is None else _wrong(param, "an object")
    _check_keys(value, _SCHEMA_KEYS, param)
    for key, kind, what in (("name", str, "a string"), ("strict", bool, "a boolean")):
        if not isinstance(value.get(key), kind | None):
            raise _wrong(f"{param}.{key}", what)
    if value.get("schema") is None:
        raise _missing(f"{param}.schema")
    return _json(value["schema"], f"{param}.schema")


def _structured_outputs(value: Mapping[str, Any], param: str) -> GrammarSpec | None:
    _check_keys(value, _OUTPUTS.keys(), param)
    given = {name: item for name, item in value.items() if item is not None and item is not False}
    if len(given) > 1:
        raise InvalidRequest(
            f"{param} may hold one of {', '.join(_OUTPUTS)}; got {', '.join(given)}", param=param
        )
    for name, item in given.items():
        return _OUTPUTS[name](item, f"{param}.{name}")
    return None


def _json(value: Any, param: str) -> GrammarSpec:
    """A schema, or its text."""
    if isinstance(value, str):
        if len(value) > MAX_BYTES:
            raise InvalidRequest(
                f"{param} may have at most {MAX_BYTES} bytes", param=param, code="invalid_schema"
            )
        try:
            value = parse_value(value.encode(), param)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, param=param, code="invalid_schema") from None
    if not isinstance(value, Mapping | bool):
        raise _wrong(param, "an object")
    return JsonSchema(value, param)


def _json_object(value: Any, param: str) -> GrammarSpec:
    if value is not True:
        raise _wrong(param, "a boolean")
    return JsonObject(param)


def _regex(value: Any, param: str) -> GrammarSpec:
    return Regex(_text(value, param), param)


def _grammar(value: Any, param: str) -> GrammarSpec:
    return Lark(_text(value, param), param)


def _choice(value: Any, param: str) -> GrammarSpec | None:
    if isinstance(value, list) and len(value) > MAX_CHOICES:
        raise InvalidRequest(f"{param} may hold at most {MAX_CHOICES} strings", param=param)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(param, "an array of strings")
    return Choice(tuple(value), param)


_OUTPUTS: dict[str, ReadSpec] = {
    "json": _json,
    "json_object": _json_object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
}


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(param, "a string that is not empty")
    return value


def _check_keys(value: Mapping[str, Any], known: Any, param: str) -> None:
    for key, item in value.items():
        if key not in known and item is not None:
            raise UnsupportedParameter(
                f"{param} may hold {', '.join(known if isinstance(known, dict) else sorted(known))}"
                f"; got {key[:40]!r}",
                param=param,
            )


def _missing(param: str) -> InvalidRequest:
    return InvalidRequest(f"{param} is required", param=param, code="missing_required_parameter")


def _wrong(param: str, expected: str) -> InvalidRequest:
    return InvalidRequest(f"{param} must be {expected}", param=param)
