"""POST /admin/lora/load and /admin/lora/unload. These routes are there where admin keys are set."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.models import adapter_object
from shoal.server.body import read_request
from shoal.server.context import context_of
from shoal.server.services import services_of

router = APIRouter()


class LoadRequest(BaseModel):
    """Which folder of the server's machine becomes a model."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=256, description="Of the adapter, in requests.")
    path: str = Field(min_length=1, max_length=4096, description="Its folder, on the server.")
    model: str | None = Field(
        None, max_length=256, description="Its base; unset = the one that its config names."
    )


class UnloadRequest(BaseModel):
    """Which adapter goes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=256)


@router.post("/admin/lora/load", **json_docs(LoadRequest, "Admin"))
async def load_adapter(request: Request) -> dict[str, Any]:
    """Loads a LoRA adapter; answers with the model object once it may be used."""
    fields = await read_request(request, LoadRequest)
    context_of(request.scope).model = fields.name
    services = services_of(request)
    adapter = await services.adapters.load(fields.name, fields.path, fields.model)
    return adapter_object(services, adapter)


@router.post("/admin/lora/unload", **json_docs(UnloadRequest, "Admin"))
async def unload_adapter(request: Request) -> dict[str, Any]:
    """Unloads a LoRA adapter. New requests for it get 404 at once; the answer comes when those that
    run are over and its memory is free."""
    fields = await read_request(request, UnloadRequest)
    context_of(request.scope).model = fields.name
    await services_of(request).adapters.unload(fields.name)
    return {"id": fields.name, "object": "model", "unloaded": True}
