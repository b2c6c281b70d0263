"""POST /v1/responses and /v1/responses/input_tokens. Nothing is kept, so no other route finds
a response."""

from typing import Any

from fastapi import APIRouter, Request, Response

from shoal.errors import NotFound
from shoal.server.api.chat.schema import ChatRequest, make_task
from shoal.server.api.dialect import count_prompt_tokens, params_named
from shoal.server.api.generation.openapi import generation_docs, json_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.submit import start_generation
from shoal.server.api.responses.render import ResponseRenderer
from shoal.server.api.responses.schema import OUR_NAMES, InputRequest, ResponseRequest
from shoal.server.body import beside_loop, convert, read_request

router = APIRouter()


@router.post(
    "/v1/responses",
    **generation_docs(
        ResponseRequest, "Responses", example={"input": "Tell me a story.", "max_output_tokens": 32}
    ),
)
async def create_response(request: Request) -> GenerationResponse:
    """OpenAI's Responses API, stateless."""
    fields = await read_request(request, ResponseRequest)
    with params_named(OUR_NAMES):
        return await start_generation(
            request,
            await convert(request, ChatRequest, await beside_loop(request, fields.chat_body)),
            num_sequences=1,
            make_task=make_task,
            make_renderer=lambda generation, options: ResponseRenderer(
                fields, generation.task, options, generation.usage
            ),
        )


@router.post(
    "/v1/responses/input_tokens",
    **json_docs(InputRequest, "Responses", example={"input": "Tell me a story."}),
)
async def count_input_tokens(request: Request, response: Response) -> dict[str, Any]:
    """The number of prompt tokens of a response."""
    fields = await read_request(request, InputRequest)
    with params_named(OUR_NAMES):
        chat = await convert(request, ChatRequest, await beside_loop(request, fields.chat_body))
        num_tokens = await count_prompt_tokens(request, response, chat)
    return {"object": "response.input_tokens", "input_tokens": num_tokens}


@router.get("/v1/responses/{response_id}", include_in_schema=False)
@router.delete("/v1/responses/{response_id}", include_in_schema=False)
@router.post("/v1/responses/{response_id}/cancel", include_in_schema=False)
@router.get("/v1/responses/{response_id}/input_items", include_in_schema=False)
async def find_response(response_id: str) -> None:
    """Always 404."""
    raise NotFound("no such response: this server is stateless and keeps none", param="response_id")
