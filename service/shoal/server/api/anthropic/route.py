"""POST /v1/messages and /v1/messages/count_tokens."""

from typing import Any

from fastapi import APIRouter, Request, Response

from shoal.config import Settings
from shoal.errors import ContextLengthExceeded
from shoal.protocol.messages import LoadedModel
from shoal.server.api.anthropic.render import MessageRenderer
from shoal.server.api.anthropic.schema import OUR_NAMES, CountRequest, MessagesRequest
from shoal.server.api.chat.schema import ChatRequest, make_task
from shoal.server.api.dialect import count_prompt_tokens, params_named
from shoal.server.api.generation.openapi import generation_docs, json_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.submit import start_generation
from shoal.server.body import parse, read_json
from shoal.server.context import RequestContext
from shoal.text.task import GenerationTask
from shoal.text.text_model import TextModel

router = APIRouter()


@router.post("/v1/messages", **generation_docs(MessagesRequest, "Anthropic"))
async def create_message(request: Request) -> GenerationResponse:
    """Anthropic's Messages API."""
    fields = parse(MessagesRequest, await read_json(request))
    with params_named(OUR_NAMES):
        return await start_generation(
            request,
            parse(ChatRequest, fields.chat_body()),
            num_sequences=1,
            make_task=make_task_in_room,
            make_renderer=lambda generation, options: MessageRenderer(
                generation.task, options, generation.usage, max_tokens=fields.max_tokens
            ),
        )


@router.post("/v1/messages/count_tokens", **json_docs(CountRequest, "Anthropic"))
async def count_tokens(request: Request, response: Response) -> dict[str, Any]:
    """The number of prompt tokens of a conversation."""
    fields = parse(CountRequest, await read_json(request))
    with params_named(OUR_NAMES):
        chat = parse(ChatRequest, fields.chat_body())
        return {"input_tokens": await count_prompt_tokens(request, response, chat)}


async def make_task_in_room(
    chat: ChatRequest,
    model: TextModel,
    loaded: LoadedModel,
    context: RequestContext,
    settings: Settings,
) -> GenerationTask:
    """A max_tokens beyond the context means: until the context is full. The answer says so."""
    try:
        return await make_task(chat, model, loaded, context, settings)
    except ContextLengthExceeded:
        open_ended = chat.model_copy(update={"max_tokens": None})
        return await make_task(open_ended, model, loaded, context, settings)
