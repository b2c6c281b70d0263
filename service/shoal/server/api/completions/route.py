"""POST /v1/completions."""

from fastapi import APIRouter, Request

from shoal.server.api.completions.render import CompletionRenderer
from shoal.server.api.completions.schema import CompletionRequest, make_task
from shoal.server.api.generation.openapi import generation_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.serialize import RenderOptions
from shoal.server.api.generation.submit import start_generation
from shoal.server.body import read_request
from shoal.text.generator import Generation

router = APIRouter()
EXAMPLE = {"prompt": "Once upon a time", "max_tokens": 32}


@router.post(
    "/v1/completions", **generation_docs(CompletionRequest, "Completions", example=EXAMPLE)
)
async def create_completion(request: Request) -> GenerationResponse:
    """Continues one or several prompts."""
    fields = await read_request(request, CompletionRequest)
    return await start_generation(
        request,
        fields,
        num_sequences=fields.num_sequences,
        make_task=make_task,
        make_renderer=lambda generation, options: _renderer(fields, generation, options),
    )


def _renderer(
    fields: CompletionRequest, generation: Generation, options: RenderOptions
) -> CompletionRenderer:
    return CompletionRenderer(
        generation.task,
        options,
        generation.usage,
        logprobs=fields.logprobs,
        prompt_logprobs=fields.prompt_logprobs,
    )
