"""POST /api/embed and, of older clients, /api/embeddings."""

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from shoal.server.api.dialect import DialectFields, given, params_named
from shoal.server.api.embeddings.render import vector_of
from shoal.server.api.embeddings.route import start_embeddings
from shoal.server.api.embeddings.schema import EmbeddingsRequest
from shoal.server.api.embeddings.vectors import cut, scaled, to_numbers
from shoal.server.api.generation.number_types import Int
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.generation.response import Renderer
from shoal.server.api.ollama.models import check_loaded, model_name
from shoal.server.api.scoring.fields import ScoringRenderer
from shoal.server.body import convert, read_request
from shoal.server.json import APIResponse, dumps
from shoal.server.services import services_of
from shoal.text.delta import Delta
from shoal.text.generator import Generation

router = APIRouter()


class _EmbedFields(DialectFields):
    """What both routes take. Their options are about text and machines: none has an effect."""

    model: str = Field(min_length=1, max_length=256)
    keep_alive: float | str | None = None
    options: dict[str, Any] = Field({})

    def ignored(self) -> dict[str, Any]:
        """Fields that are reported as such."""
        options = {f"options.{name}": value for name, value in self.options.items()}
        return {**self.extras(), **options, **given(keep_alive=self.keep_alive)}


class OllamaEmbed(_EmbedFields):
    """Body of /api/embed. Without input it asks whether the model is loaded."""

    input: str | list[Any] = Field("", description="One text, or several.")
    truncate: bool = Field(True, description="Keep the beginning of texts that are too long.")
    dimensions: Int | None = Field(None, ge=1)


class OllamaEmbeddings(_EmbedFields):
    """Body of /api/embeddings. Without a prompt it asks whether the model is loaded."""

    prompt: str = ""


class EmbedRenderer(ScoringRenderer):
    """Renders the answer of /api/embed: vectors of length 1, as Ollama makes them."""

    def __init__(self, model: str, dimensions: int | None) -> None:
        """`model`: as the request named it."""
        self._model = model
        self._dimensions = dimensions

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        vectors = (scaled(cut(vector_of(delta), self._dimensions)) for delta in deltas)
        answer = {
            "model": self._model,
            "embeddings": [to_numbers(vector) for vector in vectors],
            "total_duration": round(1e9 * (time.monotonic() - generation.timings.submitted)),
            "load_duration": 0,
            "prompt_eval_count": generation.usage.prompt_tokens,
        }
        return dumps(answer)


class OneVector(ScoringRenderer):
    """Renders the answer of /api/embeddings: the vector as the model makes it."""

    def body(self, deltas: list[Delta], generation: Generation) -> bytes:
        return dumps({"embedding": to_numbers(vector_of(deltas[0]))})


@router.post(
    "/api/embed",
    **json_docs(OllamaEmbed, "Ollama", (400, 404, 429, 503), example={"input": ["a fish"]}),
)
async def embed(request: Request) -> Response:
    """The vectors of texts, each of length 1. Texts that are too long are cut at their end, unless
    `truncate` is false."""
    fields = await read_request(request, OllamaEmbed, any_type=True)
    if not fields.input:
        check_loaded(request, fields.model, fields.keep_alive)
        return APIResponse({"model": fields.model, "embeddings": []})
    body = {"input": fields.input, **given(dimensions=fields.dimensions)}
    renderer = EmbedRenderer(fields.model, fields.dimensions)
    return await _start(request, fields, body, lambda _: renderer, truncate=fields.truncate)


@router.post(
    "/api/embeddings",
    **json_docs(OllamaEmbeddings, "Ollama", (400, 404, 429, 503), example={"prompt": "a fish"}),
)
async def embeddings(request: Request) -> Response:
    """The vector of one text, as older clients of Ollama ask for it."""
    fields = await read_request(request, OllamaEmbeddings, any_type=True)
    if not fields.prompt:
        check_loaded(request, fields.model, fields.keep_alive)
        return APIResponse({"embedding": []})
    with params_named({"input": "prompt"}):
        return await _start(request, fields, {"input": fields.prompt}, lambda _: OneVector())


async def _start(
    request: Request,
    fields: _EmbedFields,
    body: dict[str, Any],
    make_renderer: Callable[[Generation], Renderer],
    *,
    truncate: bool = True,
) -> Response:
    body = {
        **fields.ignored(),
        **body,
        "model": model_name(services_of(request), fields.model),
        **({"truncate_prompt_tokens": -1} if truncate else {}),
    }
    return await start_embeddings(
        request, await convert(request, EmbeddingsRequest, body), make_renderer
    )
