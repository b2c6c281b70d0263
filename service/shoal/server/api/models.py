"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from fastapi import APIRouter, Request

from shoal.server.services import Services, services_of
from shoal.text.text_model import TextModel

router = APIRouter(tags=["Models"])


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Every configured model, the default first; those still loading have ready false. Models of
    models_dir that cannot be loaded are listed under `failed`."""
    services = services_of(request)
    default = services.default_model
    models = sorted(services.served_models(), key=lambda model: model.name != default)
    failed = [{"id": name, "reason": reason} for name, reason in services.failures().items()]
    return {
        "object": "list",
        "data": [
            *(_model_object(services, model) for model in models),
            *(adapter_object(services, adapter) for adapter in services.adapters.listed()),
        ],
        **({"failed": failed} if failed else {}),
    }


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(request: Request, model_id: str) -> dict[str, Any]:
    """One model by id."""
    services = services_of(request)
    model = services.find_model(model_id)
    is_adapter = model.parent is not None
    return (adapter_object if is_adapter else _model_object)(services, model)


def _model_object(services: Services, model: TextModel) -> dict[str, Any]:
    loaded = services.client.loaded.get(model.name)
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "local",
        "root": model.name,
        "parent": None,
        "max_model_len": loaded.max_model_len if loaded else None,
        "ready": loaded is not None,
        "capabilities": ["completion", *(["chat"] if model.chat.source is not None else [])],
        "defaults": model.defaults,
        "num_parameters": loaded.num_parameters if loaded else None,
        "dtype": loaded.dtype if loaded else None,
        "device": loaded.device if loaded else None,
        "kernels": loaded.kernels if loaded else None,
        "kernels_reason": loaded.kernels_reason if loaded else None,
        "quantization": loaded.quantization if loaded else None,
        "quality_loss": loaded.quality_loss if loaded else None,
        "weight_bytes": loaded.weight_bytes if loaded else None,
    }


def adapter_object(services: Services, adapter: TextModel) -> dict[str, Any]:
    """An adapter is listed as its base is, with a name, a state and parameters of its own."""
    loaded = services.client.adapters.get(adapter.adapter_id)
    return {
        **_model_object(services, services.models[adapter.base]),
        "id": adapter.name,
        "created": adapter.created,
        "parent": adapter.parent,
        "ready": loaded is not None,
        "num_parameters": loaded.num_parameters if loaded else None,
        "rank": loaded.rank if loaded else None,
        "weight_bytes": None,
    }
