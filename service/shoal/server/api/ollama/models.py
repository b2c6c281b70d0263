"""What Ollama's clients ask about models, and what this server does not do for them."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import Field, model_validator

from shoal.errors import InvalidRequest, ModelNotFound, UnsupportedParameter
from shoal.server.api.dialect import DialectFields, find_model, given
from shoal.server.api.generation.openapi import json_docs
from shoal.server.api.models import abilities
from shoal.server.api.ollama.render import timestamp
from shoal.server.body import read_request
from shoal.server.context import context_of
from shoal.server.services import Services, services_of
from shoal.text.text_model import TextModel

API_VERSION = "0.12.6"
"""The version of Ollama whose API these routes follow; clients ask for it."""
_LATEST = ":latest"
_NEVER = "9999-12-31T23:59:59Z"
_ARCHITECTURE = "shoal"
_ABILITIES = {
    "completion": "completion", "tools": "tools", "reasoning": "thinking", "embedding": "embedding",
}  # fmt: skip

router = APIRouter(tags=["Ollama"])


class NamedModel(DialectFields):
    """A request that names a model."""

    model: str = Field(min_length=1, max_length=256)

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, value: Any) -> Any:
        """Older clients say `name`."""
        if isinstance(value, dict) and "name" in value and "model" not in value:
            return {**value, "model": value["name"]}
        return value


def model_name(services: Services, name: str) -> str:
    """The name the server knows a model by: Ollama's clients append a tag."""
    bare = name.removesuffix(_LATEST)
    known = {*services.models, *services.configured, *services.aliases}
    return name if name in known or services.adapters.find(name) is not None else bare


def check_loaded(request: Request, name: str, keep_alive: float | str | None) -> None:
    """For a request without input. Raises Unavailable while the model is loading,
    UnsupportedParameter for an order to unload it."""
    if keep_alive in (0, "0", "0s", "0m"):
        raise UnsupportedParameter("models stay loaded: keep_alive cannot unload one",
                                   param="keep_alive")  # fmt: skip
    services = services_of(request)
    services.find_loaded(find_model(request, model_name(services, name)).name)


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def is_running() -> PlainTextResponse:
    """What clients ask first."""
    return PlainTextResponse("Shoal is running")


@router.get("/api/version")
async def version(request: Request) -> dict[str, str]:
    """The version of Ollama's API, and that of this server."""
    return {"version": API_VERSION, "shoal": services_of(request).version}


@router.get("/api/tags")
async def tags(request: Request) -> dict[str, Any]:
    """The models."""
    return {"models": _all_models(request)}


@router.get("/api/ps")
async def running(request: Request) -> dict[str, Any]:
    """The same: a model that is served is loaded."""
    models = _all_models(request)
    return {"models": [{**each, "expires_at": _NEVER, "size_vram": 0} for each in models]}


@router.post("/api/show", **json_docs(NamedModel, "Ollama", example={}))
async def show(request: Request) -> dict[str, Any]:
    """One model: details, template, default options, abilities."""
    fields = await read_request(request, NamedModel, any_type=True)
    services = services_of(request)
    model = find_model(request, model_name(services, fields.model))
    loaded = services.find_loaded(model.name)
    chat = model.chat if model.chat.source is not None else None
    can = abilities(chat, loaded)["capabilities"]
    return {
        "modelfile": f"# {model.name}, served by Shoal",
        "parameters": "\n".join(f"{name} {value:g}" for name, value in model.defaults.items()),
        "template": model.chat.source or "",
        "details": _details(services, model),
        "model_info": {
            "general.architecture": _ARCHITECTURE,
            "general.basename": model.name,
            "general.parameter_count": loaded.num_parameters,
            f"{_ARCHITECTURE}.context_length": loaded.max_model_len,
            **given(**{f"{_ARCHITECTURE}.embedding_length": loaded.embedding_size}),
        },
        "capabilities": [_ABILITIES[name] for name in can if name in _ABILITIES],
        "modified_at": timestamp(model.created),
    }


@router.post("/api/pull", **json_docs(NamedModel, "Ollama", example={}))
async def pull(request: Request) -> dict[str, Any]:
    """Success for a model that is served; others have to be added by the operator."""
    fields = await read_request(request, NamedModel, any_type=True)
    services = services_of(request)
    try:
        find_model(request, model_name(services, fields.model))
    except ModelNotFound as error:
        error.hint = "models are added with 'shoal pull' and a restart"
        raise
    return {"status": "success"}


@router.post("/api/push", include_in_schema=False)
@router.post("/api/create", include_in_schema=False)
@router.post("/api/copy", include_in_schema=False)
@router.delete("/api/delete", include_in_schema=False)
@router.api_route("/api/blobs/{digest}", methods=["POST", "HEAD"], include_in_schema=False)
async def change_models() -> None:
    """The operator's business."""
    raise InvalidRequest(
        "models cannot be changed through this API", code="unsupported_parameter",
        hint="the server's operator chooses them with 'shoal serve MODEL...'",
    )  # fmt: skip


def _all_models(request: Request) -> list[dict[str, Any]]:
    """Those that are ready and that the key may use, adapters behind their bases."""
    services, key = services_of(request), context_of(request.scope).key
    bases = [services.models.get(name) for name in services.served_names()]
    models = [*bases, *services.adapters.listed()]
    return [
        _listed(services, model)
        for model in models
        if model is not None and model.base in services.client.loaded and key.may_use(model.name)
    ]


def _listed(services: Services, model: TextModel) -> dict[str, Any]:
    loaded = services.client.loaded[model.base]
    name = model.name if ":" in model.name else model.name + _LATEST
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(model.created),
        "size": loaded.weight_bytes,
        "digest": model.adapter_hash or loaded.weights_hash,
        "details": _details(services, model),
        "context_length": loaded.max_model_len,
    }


def _details(services: Services, model: TextModel) -> dict[str, Any]:
    loaded = services.client.loaded[model.base]
    is_quantized = loaded.quantization != "none"
    return {
        "parent_model": model.parent or "",
        "format": "",
        "family": _ARCHITECTURE,
        "families": [_ARCHITECTURE],
        "parameter_size": f"{loaded.num_parameters / 1e6:.1f}M",
        "quantization_level": (loaded.quantization if is_quantized else loaded.dtype).upper(),
    }
