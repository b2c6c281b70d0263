"""Completes the OpenAPI document: errors that any route may answer with, examples that succeed."""

from typing import Any

from shoal.errors import ShoalError
from shoal.server.auth import OPEN_PATHS
from shoal.server.error_shapes import error_schema_of
from shoal.server.services import Services

_OF_EVERY_ROUTE = {
    401: "No key, or a wrong one, where the server has keys.",
    403: "The key may not do this; without keys: the Host name is not a loopback name.",
}
_OF_BODIES = {
    400: "The request is wrong; the body says what and where.",
    413: "The body is larger than max_body_bytes.",
    415: "The body is not sent as application/json.",
}
_OF_MODELS = {
    404: "No such model.",
    503: "The server is full, loading or shutting down; see Retry-After.",
}
_OF_GENERATIONS = {504: "max_time, or the server's own limit, passed before the first output."}
_OF_REQUESTS = {404: "No such request is running."}
_OF_EMBEDDINGS = frozenset({"/v1/embeddings", "/api/embed", "/api/embeddings"})
_OF_PROBES = {503: "Not able to serve; the body says why."}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "hint": {"type": "string"},
            },
        }
    },
}


def complete(document: dict[str, Any], services: Services) -> dict[str, Any]:
    """`document` as FastAPI generates it, changed in place. It must not depend on what is served
    but for the model that its examples name."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Error"] = _ERROR
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # this server never sends it
            if path in OPEN_PATHS:
                _add(operation, _OF_PROBES, schema={})
                continue
            _add(operation, _OF_EVERY_ROUTE)
            if "requestBody" in operation:
                _add(operation, _OF_BODIES)
                _name_model(operation, services, wants_vectors=path in _OF_EMBEDDINGS)
            if "503" in operation["responses"] and "requestBody" in operation:
                _add(operation, _OF_GENERATIONS)
            if "{request_id}" in path:
                _add(operation, _OF_REQUESTS)
            if "{model_id}" in path or _takes_model(operation):
                _add(operation, _OF_MODELS)
            if (found := error_schema_of(path)) is not None:
                name, schemas[found[0]] = found
                _set_error_schema(operation, name)
    return document


def _set_error_schema(operation: dict[str, Any], name: str) -> None:
    """Every error of a dialect's route is in its shape."""
    for status, response in operation["responses"].items():
        if status >= "400":
            schema = {"$ref": f"#/components/schemas/{name}"}
            response["content"] = {"application/json": {"schema": schema}}


def _takes_model(operation: dict[str, Any]) -> bool:
    """Does its query name a model?"""
    if not any(of["name"] == "model" for of in operation.get("parameters", ())):
        return False
    _add(operation, {400: _OF_BODIES[400]})
    return True


def _add(
    operation: dict[str, Any], errors: dict[int, str], schema: dict[str, Any] | None = None
) -> None:
    shape = {"$ref": "#/components/schemas/Error"} if schema is None else schema
    for status, description in errors.items():
        content = {"application/json": {"schema": shape}}
        operation["responses"].setdefault(
            str(status), {"description": description, "content": content}
        )


def _name_model(operation: dict[str, Any], services: Services, *, wants_vectors: bool) -> None:
    """Examples name the model that they are sent to, where a request must name one."""
    for content in operation["requestBody"]["content"].values():
        example = content.get("example")
        if example is None or "model" in example or "name" in example:
            continue
        try:
            names = [services.default_model, *services.served_names()]
        except ShoalError:  # nothing is known yet
            continue
        find = _first_with_vectors if wants_vectors else _example_model
        if (name := find(services, names, example)) is not None:
            content["example"] = {"model": name, **example}


def _first_with_vectors(services: Services, names: list[str], _: dict[str, Any]) -> str:
    """The first model that makes embeddings; where none does, any will say so."""
    loaded = services.client.loaded
    makers = (i for i in names if i in loaded and loaded[i].embedding_size is not None)
    return next(makers, names[0])


def _example_model(services: Services, names: list[str], example: dict[str, Any]) -> str | None:
    """The default model, for a chat the first one that can chat."""
    can_chat = [
        name
        for name in names
        if (model := services.models.get(name)) is not None and model.chat.source is not None
    ]
    needs_chat = "messages" in example or "input" in example
    return next(iter(can_chat if needs_chat else names), None)
