"""POST /v1/embeddings: none of the models that are served makes embeddings; the answer says so."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from shoal.errors import NotSupportedByModel
from shoal.server.api.generation.number_types import Int
from shoal.server.body import read_request
from shoal.server.context import context_of
from shoal.server.services import services_of

router = APIRouter()


class EmbeddingsRequest(BaseModel):
    """Texts to embed, as in the OpenAI API."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, max_length=256)
    input: Any = Field(description="A text, texts, token ids, or lists of token ids.")
    encoding_format: str = "float"
    dimensions: Int | None = Field(None, ge=1)


@router.post("/v1/embeddings", include_in_schema=False)
async def create_embeddings(request: Request) -> dict[str, Any]:
    """Answers 400 not_supported_by_model: decoders that write text have no embeddings."""
    fields = await read_request(request, EmbeddingsRequest)
    model = services_of(request).find_model(fields.model, context_of(request.scope).key)
    context_of(request.scope).model = model.name
    raise NotSupportedByModel(f"model {model.name} makes no embeddings", param="model")
