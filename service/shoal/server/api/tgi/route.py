"""POST /generate, /generate_stream and /, GET /info."""

from typing import Any

from fastapi import APIRouter, Request

from shoal.server.api.completions.schema import CompletionRequest, make_task
from shoal.server.api.dialect import params_named
from shoal.server.api.generation.fields import MAX_STOPS
from shoal.server.api.generation.openapi import generation_docs
from shoal.server.api.generation.response import GenerationResponse
from shoal.server.api.generation.submit import start_generation
from shoal.server.api.tgi.render import GenerateRenderer
from shoal.server.api.tgi.schema import OUR_NAMES, GenerateRequest
from shoal.server.body import beside_loop, convert, read_request
from shoal.server.context import context_of
from shoal.server.services import services_of

EXAMPLE = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 32, "details": True}}

router = APIRouter()


@router.post("/generate", **generation_docs(GenerateRequest, "TGI", example=EXAMPLE))
async def generate(request: Request) -> GenerationResponse:
    """Continues a text."""
    return await _answer(request)


@router.post("/generate_stream", **generation_docs(GenerateRequest, "TGI", example=EXAMPLE))
async def generate_stream(request: Request) -> GenerationResponse:
    """Continues a text; one event per token."""
    return await _answer(request, stream=True)


@router.post("/", **generation_docs(GenerateRequest, "TGI", example=EXAMPLE))
async def generate_at_root(request: Request) -> GenerationResponse:
    """The same as /generate, with a plain answer in an array; what huggingface_hub calls."""
    return await _answer(request, in_list=True)


@router.get("/info", tags=["TGI"])
async def info(request: Request) -> dict[str, Any]:
    """The default model and the limits of a request."""
    services = services_of(request)
    settings = services.settings
    name = services.find_model(services.default_model, context_of(request.scope).key).name
    loaded = services.find_loaded(name)
    return {
        "model_id": name,
        "model_sha": loaded.weights_hash,
        "model_dtype": loaded.dtype,
        "model_device_type": loaded.device,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": settings.max_batch_size + settings.max_queue,
        "max_best_of": settings.max_n,
        "max_stop_sequences": MAX_STOPS,
        "max_input_tokens": loaded.max_model_len - 1,
        "max_total_tokens": loaded.max_model_len,
        "max_client_batch_size": 1,
        "router": "shoal",
        "version": services.version,
    }


async def _answer(
    request: Request, *, stream: bool = False, in_list: bool = False
) -> GenerationResponse:
    """`stream`: also where the body does not say so."""
    fields = await read_request(request, GenerateRequest)
    # This API has no model names, so it cannot ask for one where several are served.
    default_model = services_of(request).default_model
    body = await beside_loop(
        request,
        lambda: fields.completion_body(stream=stream or fields.stream, default_model=default_model),
    )
    with params_named(OUR_NAMES):
        return await start_generation(
            request,
            await convert(request, CompletionRequest, body),
            num_sequences=fields.parameters.best_of,
            make_task=make_task,
            make_renderer=lambda generation, options: GenerateRenderer(
                fields, generation.task, in_list=in_list
            ),
        )
