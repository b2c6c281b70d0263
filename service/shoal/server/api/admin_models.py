"""POST /admin/models/load and /unload, /admin/cache/reset, /admin/drain: with an admin key only."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from shoal.errors import InvalidRequest, ModelNotFound
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.models import model_object
from shoal.server.body import read_request
from shoal.server.context import context_of
from shoal.server.json import APIResponse
from shoal.server.model_admin import ModelAdmin
from shoal.server.services import services_of


class LoadModelRequest(BaseModel):
    """Which folder or GGUF file of the server's machine becomes a model."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=256, description="Of the model, in requests.")
    path: str = Field(min_length=1, max_length=4096, description="Where it is, on the server.")
    wait: bool = Field(False, description="Answer when it is served, not as soon as it loads.")


class UnloadModelRequest(BaseModel):
    """Which model goes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=256)
    drain: bool = Field(False, description="Wait for its running requests, else 409.")


class CacheResetRequest(BaseModel):
    """Whose prefix cache is emptied."""

    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = Field(None, max_length=256, description="Unset: those of all models.")


class DrainRequest(BaseModel):
    """Whether new work is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    drain: bool = Field(True, description="false takes new work again.")


def admin_models_router(admin: ModelAdmin) -> APIRouter:
    """The routes, on the models of one server."""
    router = APIRouter()

    @router.post("/admin/models/load", **json_docs(LoadModelRequest, "Admin"))
    async def load_model(request: Request) -> APIResponse:
        """Loads one more model. Answers 202 with the model object when the folder is in order;
        /v1/models and /readyz show the rest, and why it failed if it does. With `wait` the answer
        comes when it is served."""
        fields = await read_request(request, LoadModelRequest)
        context_of(request.scope).model = fields.name
        services = services_of(request)
        task = await admin.start_load(fields.name, fields.path)
        if fields.wait:
            await task
            if reason := services.failure_of(fields.name):
                raise InvalidRequest(reason, param="path")
        is_ready = fields.name in services.models
        return APIResponse(
            model_object(services, fields.name, fields.name), 200 if is_ready else 202
        )

    @router.post("/admin/models/unload", **json_docs(UnloadModelRequest, "Admin"))
    async def unload_model(request: Request) -> dict[str, Any]:
        """Unloads a model and its adapters. New requests for it get 404 at once; the answer comes
        when those that run are over and its memory is free."""
        fields = await read_request(request, UnloadModelRequest)
        context_of(request.scope).model = fields.name
        await admin.unload(fields.name, drain=fields.drain)
        return {"id": fields.name, "object": "model", "unloaded": True}

    @router.post("/admin/cache/reset", **json_docs(CacheResetRequest, "Admin", example={}))
    async def reset_cache(request: Request) -> dict[str, Any]:
        """Empties prefix caches, and forgets what earlier answers said. Running requests go on with
        what they have."""
        fields = await read_request(request, CacheResetRequest)
        services = services_of(request)
        if fields.model is not None and fields.model not in services.client.loaded:
            raise ModelNotFound(f"there is no model {fields.model[:100]!r}", param="model")
        return {"reset": True, "blocks": await services.client.reset_cache(fields.model or "")}

    @router.post("/admin/drain", **json_docs(DrainRequest, "Admin", example={"drain": False}))
    async def drain(request: Request) -> dict[str, Any]:
        """Refuses new work with 503 and is not ready from now on; running requests go on. false
        undoes it."""
        fields = await read_request(request, DrainRequest)
        services = services_of(request)
        services.drained = fields.drain
        return {"draining": services.drained, "open_requests": len(services.open_requests)}

    return router
