"""POST /tokenize, POST /detokenize, GET /tokenizer_info."""

from collections.abc import Container
from itertools import islice
from typing import Any, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from shoal.errors import InvalidRequest
from shoal.protocol.messages import LoadedModel
from shoal.server.api.chat.messages import ChatPrompt, chat_token_ids, render_chat
from shoal.server.api.generation.fields import MAX_IGNORED_NAMES
from shoal.server.api.generation.number_types import TokenIds
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.params import MAX_CHARS_PER_TOKEN, check_prompt_chars
from shoal.server.body import convert, read_request
from shoal.server.context import context_of
from shoal.server.errors import printable
from shoal.server.json import APIResponse
from shoal.server.off_loop import off_loop
from shoal.server.services import services_of
from shoal.text.task import check_token_ids
from shoal.text.text_model import TextModel

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
    tokens: TokenIds


@router.post("/tokenize", **json_docs(TokenizeRequest, "Tokens", example={"prompt": "Hello!"}))
@router.post("/v1/tokenize", include_in_schema=False)
async def tokenize(request: Request) -> Response:
    """Token ids of a text or of rendered messages."""
    fields = await read_request(request, TokenizeRequest)
    model, loaded = _model(request, fields.model)
    rendered: str | None = None
    if fields.prompt is not None:
        text = fields.prompt
        check_prompt_chars(len(text), loaded, param="prompt")
        token_ids = await off_loop(
            len(text),
            lambda: model.tokenizer.encode(text, add_special_tokens=fields.add_special_tokens),
        )
    else:
        body = {**(fields.model_extra or {}), "messages": fields.messages}
        chat = await render_chat(await convert(request, ChatPrompt, body), model, loaded)
        token_ids = await chat_token_ids(chat, model)
        rendered = chat.text
    known = ChatPrompt.model_fields if fields.messages else {}
    headers = _ignored(fields, known)
    name = model.tokenizer.token_name if fields.return_token_strs else None

    def answer() -> Response:
        content = {
            "count": len(token_ids),
            "max_model_len": loaded.max_model_len,
            "tokens": token_ids,
            "token_strs": [*map(name, token_ids)] if name else None,
            "prompt": rendered,
        }
        return APIResponse(content, headers=headers)

    return await off_loop(len(token_ids), answer)


@router.post("/detokenize", **json_docs(DetokenizeRequest, "Tokens", example={"tokens": [1, 2, 3]}))
@router.post("/v1/detokenize", include_in_schema=False)
async def detokenize(request: Request) -> Response:
    """The text of token ids, including special tokens."""
    fields = await read_request(request, DetokenizeRequest)
    model, loaded = _model(request, fields.model)
    token_ids, headers = fields.tokens, _ignored(fields, {})
    limit = loaded.max_model_len * MAX_CHARS_PER_TOKEN
    if len(token_ids) > limit:
        raise InvalidRequest(f"tokens may hold at most {limit} entries", param="tokens")

    def answer() -> Response:
        check_token_ids(token_ids, loaded, param="tokens")
        text = model.tokenizer.decode(token_ids, skip_special_tokens=False)
        return APIResponse({"prompt": text}, headers=headers)

    return await off_loop(len(token_ids), answer)


@router.get("/tokenizer_info", tags=["Tokens"])
async def tokenizer_info(request: Request, model: str | None = None) -> dict[str, Any]:
    """Special tokens, template and vocabulary size of a model."""
    found = services_of(request).find_model(model, context_of(request.scope).key)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": found.bos_token,
        "eos_token": found.eos_token,
        "pad_token": found.pad_token,
        "chat_template": found.chat.source,
        "vocab_size": found.tokenizer.vocab_size,
    }


def _model(request: Request, name: str | None) -> tuple[TextModel, LoadedModel]:
    services = services_of(request)
    model = services.find_model(name, context_of(request.scope).key)
    return model, services.find_loaded(model.name)


def _ignored(fields: BaseModel, known: Container[str]) -> dict[str, str]:
    """The header that names fields without effect: those beyond the schema and `known`."""
    unknown = (printable(name) for name in fields.model_extra or {} if name not in known)
    names = list(islice(unknown, MAX_IGNORED_NAMES))
    return {"x-ignored-params": ",".join(names)} if names else {}
