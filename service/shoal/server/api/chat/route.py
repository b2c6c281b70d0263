"""POST /v1/chat/completions."""

from fastapi import APIRouter, Request

from shoal.server.api.chat.render import ChatRenderer
from shoal.server.api.chat.schema import ChatRequest, make_task
from shoal.server.api.generation.openapi import generation_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.submit import start_generation
from shoal.server.body import read_request

router = APIRouter()
EXAMPLE = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32}


@router.post("/v1/chat/completions", **generation_docs(ChatRequest, "Chat", example=EXAMPLE))
async def create_chat_completion(request: Request) -> GenerationResponse:
    """Answers a conversation through the model's chat template."""
    fields = await read_request(request, ChatRequest)
    return await start_generation(
        request,
        fields,
        num_sequences=fields.n,
        make_task=make_task,
        make_renderer=lambda generation, options: ChatRenderer(
            generation.task, options, generation.usage, logprobs=fields.logprobs
        ),
    )
