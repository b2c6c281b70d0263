"""POST /v1/embeddings."""

from collections.abc import Callable

from fastapi import APIRouter, Request

from shoal.server.api.embeddings.render import EmbeddingsRenderer
from shoal.server.api.embeddings.schema import EmbeddingsRequest, make_task
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.response import GenerationResponse, Renderer
from shoal.server.api.generation.submit import start_generation
from shoal.server.body import read_request
from shoal.server.context import context_of
from shoal.server.services import services_of
from shoal.text.generator import Generation

router = APIRouter()

EXAMPLE = {"input": ["a fish", "the sea"]}


@router.post(
    "/v1/embeddings",
    **json_docs(EmbeddingsRequest, "Embeddings", (400, 404, 429, 503), example=EXAMPLE),
)
async def create_embeddings(request: Request) -> GenerationResponse:
    """The vector of a text, or of each of several. Only models that make embeddings have any, see
    `capabilities` of `/v1/models`; others answer 400 not_supported_by_model. Texts get the special
    tokens of the model, token ids stay as they are."""
    fields = await read_request(request, EmbeddingsRequest)
    return await start_embeddings(
        request,
        fields,
        lambda generation: EmbeddingsRenderer(
            generation.task,
            as_base64=fields.encoding_format == "base64",
            dimensions=fields.dimensions,
            tells_truncated=fields.truncate_prompt_tokens is not None,
        ),
    )


async def start_embeddings(
    request: Request,
    fields: EmbeddingsRequest,
    make_renderer: Callable[[Generation], Renderer],
) -> GenerationResponse:
    """Starts as many of the inputs as may run at once. Raises ShoalError if they are rejected."""
    settings = services_of(request).settings
    max_open = context_of(request.scope).key.limits.max_queue or settings.tenant_max_queue
    return await start_generation(
        request,
        fields,
        num_sequences=fields.num_places(settings, max_open),
        make_task=make_task,
        make_renderer=lambda generation, _: make_renderer(generation),
        use="embedding",
    )
