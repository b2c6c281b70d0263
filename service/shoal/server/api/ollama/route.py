"""POST /api/chat and /api/generate."""

from typing import Any

from fastapi import APIRouter, Request, Response

from shoal.server.api.chat.schema import ChatRequest
from shoal.server.api.chat.schema import make_task as make_chat_task
from shoal.server.api.completions.schema import make_task as make_completion_task
from shoal.server.api.dialect import find_model, in_room, params_named
from shoal.server.api.generation.openapi import generation_docs
from shoal.server.api.generation.submit import start_generation
from shoal.server.api.ollama.embeddings import router as embeddings_router
from shoal.server.api.ollama.models import check_loaded, model_name
from shoal.server.api.ollama.models import router as models_router
from shoal.server.api.ollama.options import OUR_NAMES
from shoal.server.api.ollama.render import OllamaRenderer, now
from shoal.server.api.ollama.schema import OllamaChat, OllamaFields, OllamaGenerate, RawCompletion
from shoal.server.body import beside_loop, convert, read_request
from shoal.server.json import APIResponse
from shoal.server.services import services_of
from shoal.text.generator import Generation


def _docs(schema: type[OllamaFields], **example: Any) -> Any:
    docs = generation_docs(schema, "Ollama", example={**example, "options": {"num_predict": 32}})
    docs["responses"][200] = {
        "description": "Lines of JSON, or with stream=false one object.",
        "content": {"application/json": {}, "application/x-ndjson": {}},
    }
    return docs


router = APIRouter()
router.include_router(models_router)
router.include_router(embeddings_router)


@router.post("/api/chat", **_docs(OllamaChat, messages=[{"role": "user", "content": "Hi"}]))
async def chat(request: Request) -> Response:
    """Answers a conversation; streams lines of JSON unless `stream` is false."""
    fields = await read_request(request, OllamaChat, any_type=True)
    if fields.is_load:
        return _loaded(request, fields, {"message": {"role": "assistant", "content": ""}})
    services = services_of(request)
    name = model_name(services, fields.model)
    model = find_model(request, name)
    body = await beside_loop(request, lambda: fields.chat_body(name, model))
    return await _chat(request, fields, body, is_chat=True)


@router.post("/api/generate", **_docs(OllamaGenerate, prompt="Once upon a time"))
async def generate(request: Request) -> Response:
    """Answers a prompt through the model's template, or with `raw` continues it."""
    fields = await read_request(request, OllamaGenerate, any_type=True)
    if fields.is_load:
        return _loaded(request, fields, {"response": ""})
    services = services_of(request)
    name = model_name(services, fields.model)
    model = find_model(request, name)
    if not fields.is_completion(model):
        body = await beside_loop(request, lambda: fields.chat_body(name, model))
        return await _chat(request, fields, body, is_chat=False)
    body = await beside_loop(request, lambda: fields.completion_body(name, model))
    with params_named(OUR_NAMES):
        return await start_generation(
            request,
            await convert(request, RawCompletion, body),
            num_sequences=1,
            make_task=in_room(make_completion_task),
            make_renderer=lambda generation, options: _renderer(fields, generation, False),
        )


async def _chat(
    request: Request, fields: OllamaFields, body: dict[str, Any], *, is_chat: bool
) -> Response:
    with params_named(OUR_NAMES):
        return await start_generation(
            request,
            await convert(request, ChatRequest, body),
            num_sequences=1,
            make_task=in_room(make_chat_task),
            make_renderer=lambda generation, options: _renderer(fields, generation, is_chat),
        )


def _renderer(fields: OllamaFields, generation: Generation, is_chat: bool) -> OllamaRenderer:
    return OllamaRenderer(generation, model=fields.model, is_chat=is_chat, logprobs=fields.logprobs)


def _loaded(request: Request, fields: OllamaFields, content: dict[str, Any]) -> Response:
    """The answer to a request without input: Ollama would load the model. Raises Unavailable while
    it is loading, UnsupportedParameter for an order to unload it."""
    check_loaded(request, fields.model, fields.keep_alive)
    head = {"model": fields.model, "created_at": now()}
    return APIResponse({**head, **content, "done": True, "done_reason": "load"})
