"""POST /tokenize, POST /detokenize, GET /tokenizer_info."""

from typing import Any, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.errors import InvalidRequest
from shoal.server.api.chat.messages import ChatPrompt, chat_token_ids, render_chat
from shoal.server.api.generation.fields import MAX_IGNORED_NAMES, Int, printable
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.params import check_prompt_chars, off_loop
from shoal.server.body import parse, read_json
from shoal.server.errors import from_validation
from shoal.server.services import services_of
from shoal.text.task import check_token_ids

router = APIRouter()


class TokenizeRequest(BaseModel):
    """A text, or chat messages to render first."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, max_length=256)
    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest(
                "send either prompt or messages",
                code="missing_required_parameter",
                param="prompt",
            )
        return self


class DetokenizeRequest(BaseModel):
    """Token ids of one model."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, max_length=256)
    tokens: list[Int]


@router.post("/tokenize", **json_docs(TokenizeRequest, "Tokens", example={"prompt": "Hello!"}))
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request, response: Response) -> dict[str, Any]:
    """Token ids of a text or of rendered messages."""
    body = await read_json(request)
    fields = parse(TokenizeRequest, body)
    known = {*TokenizeRequest.model_fields, *(ChatPrompt.model_fields if fields.messages else ())}
    _set_ignored_header(response, body, known)
    services = services_of(request)
    model = services.find_model(fields.model)
    loaded = services.find_loaded(model.name)
    rendered: str | None = None
    if fields.prompt is not None:
        text = fields.prompt
        check_prompt_chars(len(text), loaded, param="prompt")
        token_ids = await off_loop(
            len(text),
            lambda: model.tokenizer.encode(text, add_special_tokens=fields.add_special_tokens),
        )
    else:
        chat = await render_chat(_parse_chat_prompt(body), model, loaded)
        token_ids = await chat_token_ids(chat, model)
        rendered = chat.text
    names = [model.tokenizer.token_name(token_id) for token_id in token_ids]
    return {
        "count": len(token_ids),
        "max_model_len": loaded.max_model_len,
        "tokens": token_ids,
        "token_strs": names if fields.return_token_strs else None,
        "prompt": rendered,
    }


@router.post("/detokenize", **json_docs(DetokenizeRequest, "Tokens", example={"tokens": [1, 2, 3]}))
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request, response: Response) -> dict[str, str]:
    """The text of token ids, including special tokens."""
    body = await read_json(request)
    fields = parse(DetokenizeRequest, body)
    _set_ignored_header(response, body, set(DetokenizeRequest.model_fields))
    services = services_of(request)
    model = services.find_model(fields.model)
    loaded = services.find_loaded(model.name)
    check_token_ids(fields.tokens, loaded, param="tokens")
    return {"prompt": model.tokenizer.decode(fields.tokens, skip_special_tokens=False)}


@router.get("/tokenizer_info", tags=["Tokens"])
async def tokenizer_info(request: Request, model: str | None = None) -> dict[str, Any]:
    """Special tokens, template and vocabulary size of a model."""
    found = services_of(request).find_model(model)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": found.bos_token,
        "eos_token": found.eos_token,
        "pad_token": found.pad_token,
        "chat_template": found.chat.source,
        "vocab_size": found.tokenizer.vocab_size,
    }


def _set_ignored_header(response: Response, body: dict[str, Any], known: set[str]) -> None:
    ignored = [printable(name) for name in body if name not in known]
    if ignored:
        response.headers["x-ignored-params"] = ",".join(ignored[:MAX_IGNORED_NAMES])


def _parse_chat_prompt(body: dict[str, Any]) -> ChatPrompt:
    try:
        return ChatPrompt.model_validate(body)
    except ValidationError as error:
        raise from_validation(error, ChatPrompt) from error
