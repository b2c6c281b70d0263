"""What the dialects share: other APIs whose requests become chats or completions of ours.

A dialect has a schema of its own fields, translates them to the body of a `ChatRequest` or a
`CompletionRequest`, and starts a generation as those routes do, with a renderer of its own. So
limits, keys, admission, metrics and logs are the same.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, model_validator

from shoal.config import Settings
from shoal.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from shoal.protocol.messages import LoadedModel
from shoal.server.api.chat.messages import chat_prompt
from shoal.server.api.chat.schema import ChatRequest
from shoal.server.api.generation.fields import without_nulls
from shoal.server.api.generation.submit import Fields, MakeTask
from shoal.server.context import RequestContext, context_of
from shoal.server.errors import FieldProblem, printable
from shoal.server.services import services_of
from shoal.text.task import GenerationTask
from shoal.text.text_model import TextModel

NeutralValues = dict[str, tuple[Any, ...]]
"""Known fields that are not supported, with the values that have no effect and are accepted."""

# Fields of our own API that would change the shape of the answer.
SHAPE_FIELDS: NeutralValues = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "stream_options": ({},),
    "include": ([],),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
}


class DialectFields(BaseModel):
    """Base of the request schemas. Fields that a schema does not name go on to the chat or
    completion: it knows our sampling options and reports what it does not know."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    neutral: ClassVar[NeutralValues] = {}

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        return without_nulls(value)

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> Self:
        neutral = {**SHAPE_FIELDS, **self.neutral}
        for name, value in (self.model_extra or {}).items():
            refuse_unsupported(neutral, name, value)
        return self

    def extras(self) -> dict[str, Any]:
        """Fields that the schema does not name, without known ones at neutral values."""
        known = SHAPE_FIELDS.keys() | self.neutral.keys()
        return {n: value for n, value in (self.model_extra or {}).items() if n not in known}


class Part(BaseModel):
    """Base of the schemas of nested objects."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: Any) -> Any:
        return without_nulls(value)


def refuse_unsupported(neutral: NeutralValues, name: str, value: Any) -> None:
    """Raises UnsupportedParameter for a known field with a value that would have an effect."""
    if name in neutral and not any(
        value == ok and isinstance(value, bool) == isinstance(ok, bool) for ok in neutral[name]
    ):
        raise UnsupportedParameter(f"{name} is not supported by this server", param=name)


def given(**fields: Any) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def nested_extras(path: str, extras: Mapping[str, Any] | None) -> dict[str, Any]:
    """Unknown fields of a nested object, named so that they are reported as ignored."""
    return {f"{path}.{printable(name)}": value for name, value in (extras or {}).items()}


def joined_text(parts: Any, types: Mapping[str, str], *, between: str = "") -> str:
    """The text of a string or of an array of content parts. `types`: part type -> the field with
    its text. Raises FieldProblem for other parts."""
    if isinstance(parts, str):
        return parts
    if not isinstance(parts, list):
        raise FieldProblem("must be a string or an array of content parts")
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise FieldProblem("must hold objects with a type")
        if part["type"] not in types:
            raise FieldProblem(
                f"may hold parts of type {', '.join(types)} only; got {part['type'][:40]!r}",
                code="unsupported_parameter",
            )
        text = part.get(types[part["type"]])
        if not isinstance(text, str):
            raise FieldProblem(f"parts of type {part['type']} need a string {types[part['type']]}")
        texts.append(text)
    return between.join(texts)


def find_model(request: Request, name: str | None) -> TextModel:
    """The model that a request names. Raises InvalidRequest, ModelNotFound or Unavailable."""
    return services_of(request).find_model(name, context_of(request.scope).key)


async def count_prompt_tokens(request: Request, response: Response, chat: ChatRequest) -> int:
    """Tokens of the prompt that the same chat would have. Raises InvalidRequest."""
    services = services_of(request)
    model = find_model(request, chat.model)
    if ignored := chat.check_extra_fields():
        response.headers["x-ignored-params"] = ",".join(ignored)
    chat.check_limits(services.settings)
    prompt = await chat_prompt(chat, model, services.find_loaded(model.name))
    return len(prompt.token_ids)


def in_room(make_task: MakeTask[Fields]) -> MakeTask[Fields]:
    """A max_tokens beyond the context means: until the context is full. For APIs whose answers say
    that they end there."""

    async def make(
        fields: Fields,
        model: TextModel,
        loaded: LoadedModel,
        context: RequestContext,
        settings: Settings,
    ) -> GenerationTask:
        try:
            return await make_task(fields, model, loaded, context, settings)
        except ContextLengthExceeded:
            open_ended = fields.model_copy(update={"max_tokens": None})
            return await make_task(open_ended, model, loaded, context, settings)

    return make


@contextmanager
def params_named(names: Mapping[str, str]) -> Iterator[None]:
    """Errors name the caller's field. `names` maps ours to theirs: first parts of paths, and with
    a dot in front parts within them."""
    try:
        yield
    except InvalidRequest as error:
        if (ours := error.param) is not None:
            error.param = theirs = _renamed(ours, names)
            if error.message.startswith(f"{ours} "):
                error.message = theirs + error.message.removeprefix(ours)
        raise


def _renamed(param: str, names: Mapping[str, str]) -> str:
    first, dot, rest = param.partition(".")
    if first in names:
        # What follows an array of ours need not be at the same place in theirs.
        param = names[first] if rest[:1].isdigit() else names[first] + dot + rest
    for ours, theirs in names.items():
        if ours.startswith("."):
            param = param.replace(ours, theirs)
    return param
