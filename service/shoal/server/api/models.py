"""GET /v1/models and /v1/models/{id}."""

from typing import Any

from fastapi import APIRouter, Request

from shoal.protocol.messages import LoadedModel
from shoal.server.context import context_of
from shoal.server.services import Services, services_of
from shoal.text.chat import Chat
from shoal.text.text_model import TextModel

router = APIRouter(tags=["Models"])


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """Every configured model, the default first, and after each its aliases, whose `root` is the
    model's name; those still loading have ready false. Models of models_dir that cannot be loaded
    are listed under `failed`. A key sees those that it may use."""
    services = services_of(request)
    key = context_of(request.scope).key
    served = services.served_names()
    default = services.default_model if served else None
    names = sorted(served, key=lambda name: name != default)
    failed = [
        {"id": name, "reason": reason}
        for name, reason in services.failures().items()
        if key.may_use(name)
    ]
    return {
        "object": "list",
        "data": [
            model_object(services, model_id, name)
            for name in names
            for model_id in (name, *_aliases(services, name))
            if key.may_use(model_id, name)
        ]
        + [
            adapter_object(services, adapter)
            for adapter in services.adapters.listed()
            if key.may_use(adapter.name)
        ],
        **({"failed": failed} if failed else {}),
    }


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(request: Request, model_id: str) -> dict[str, Any]:
    """One model by id."""
    services = services_of(request)
    key = context_of(request.scope).key
    name = services.aliases.get(model_id, model_id)
    if not key.may_use(model_id, name):
        services.find_model(model_id, key)  # raises: not for this key, or not there
    if (adapter := services.adapters.find(model_id)) is not None:
        return adapter_object(services, adapter)
    if name not in services.served_names():
        name = services.find_model(name, key).name  # raises: not there, or why it failed
    return model_object(services, model_id, name)


def _aliases(services: Services, name: str) -> list[str]:
    return [alias for alias, model in services.aliases.items() if model == name]


def model_object(services: Services, model_id: str, name: str) -> dict[str, Any]:
    """`model_id`: the model's name, or an alias. What loads knows little of itself yet."""
    model, loaded = services.models.get(name), services.client.loaded.get(name)
    chat = model.chat if model is not None and model.chat.source is not None else None
    return {
        "id": model_id,
        "object": "model",
        "created": model.created if model else 0,
        "owned_by": "local",
        "root": name,
        "parent": None,
        "max_model_len": loaded.max_model_len if loaded else None,
        "ready": model is not None and loaded is not None,
        **abilities(chat, loaded),
        "defaults": model.defaults if model else {},
        "embedding_size": loaded.embedding_size if loaded else None,
        "num_parameters": loaded.num_parameters if loaded else None,
        "dtype": loaded.dtype if loaded else None,
        "device": loaded.device if loaded else None,
        "kernels": loaded.kernels if loaded else None,
        "kernels_reason": loaded.kernels_reason if loaded else None,
        "quantization": loaded.quantization if loaded else None,
        "quality_loss": loaded.quality_loss if loaded else None,
        "weight_bytes": loaded.weight_bytes if loaded else None,
    }


def abilities(chat: Chat | None, loaded: LoadedModel | None) -> dict[str, Any]:
    """What the model can do. Tools are native where its own chat template describes them; generic
    where we do, for a model that may never have learned to call any. Of one that still loads, what
    its files say."""
    vectors = ["embedding"] if loaded is not None and loaded.embedding_size is not None else []
    if loaded is not None and not loaded.generates:
        return {"capabilities": vectors, "tools": None, "tool_format": None}
    if chat is None:
        return {"capabilities": ["completion", *vectors], "tools": None, "tool_format": None}
    support = chat.tool_support
    reasoning = ["reasoning"] if chat.reasoning is not None else []
    return {
        "capabilities": ["completion", "chat", "tools", *reasoning, *vectors],
        "tools": "native" if support.is_native else "generic",
        "tool_format": support.format.name,
    }


def adapter_object(services: Services, adapter: TextModel) -> dict[str, Any]:
    """An adapter is listed as its base is, with a name, a state and parameters of its own."""
    loaded = services.client.adapters.get(adapter.adapter_id)
    return {
        **model_object(services, adapter.name, adapter.base),
        "created": adapter.created,
        "parent": adapter.parent,
        "ready": loaded is not None,
        "num_parameters": loaded.num_parameters if loaded else None,
        "rank": loaded.rank if loaded else None,
        "weight_bytes": None,
    }
