"""POST /v1/messages and /v1/messages/count_tokens."""

from typing import Any

from fastapi import APIRouter, Request, Response

from shoal.server.api.anthropic.render import MessageRenderer
from shoal.server.api.anthropic.schema import OUR_NAMES, CountRequest, MessagesRequest
from shoal.server.api.chat.schema import ChatRequest, make_task
from shoal.server.api.dialect import count_prompt_tokens, in_room, params_named
from shoal.server.api.generation.openapi import generation_docs, json_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.submit import start_generation
from shoal.server.body import beside_loop, convert, read_request

HI = [{"role": "user", "content": "Tell me a story."}]

router = APIRouter()


@router.post(
    "/v1/messages",
    **generation_docs(MessagesRequest, "Anthropic", example={"max_tokens": 32, "messages": HI}),
)
async def create_message(request: Request) -> GenerationResponse:
    """Anthropic's Messages API."""
    fields = await read_request(request, MessagesRequest)
    with params_named(OUR_NAMES):
        return await start_generation(
            request,
            await convert(request, ChatRequest, await beside_loop(request, fields.chat_body)),
            num_sequences=1,
            make_task=in_room(make_task),
            make_renderer=lambda generation, options: MessageRenderer(
                generation.task, options, generation.usage, max_tokens=fields.max_tokens
            ),
        )


@router.post(
    "/v1/messages/count_tokens", **json_docs(CountRequest, "Anthropic", example={"messages": HI})
)
async def count_tokens(request: Request, response: Response) -> dict[str, Any]:
    """The number of prompt tokens of a conversation."""
    fields = await read_request(request, CountRequest)
    with params_named(OUR_NAMES):
        chat = await convert(request, ChatRequest, await beside_loop(request, fields.chat_body))
        return {"input_tokens": await count_prompt_tokens(request, response, chat)}
