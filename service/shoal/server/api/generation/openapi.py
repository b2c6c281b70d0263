"""OpenAPI documentation for routes that parse their request body themselves."""

from typing import Any

from pydantic import BaseModel

_ERRORS = {
    400: "The request is wrong; the body says what and where.",
    404: "No such model.",
    429: "Your own limit is reached; see Retry-After.",
    503: "The server is full, loading or shutting down; see Retry-After.",
}
_ERROR = {"$ref": "#/components/schemas/Error"}


def json_docs(
    schema: type[BaseModel],
    tag: str,
    errors: tuple[int, ...] = (400, 404),
    *,
    example: dict[str, Any] | None = None,
) -> Any:
    """Keyword arguments for a route whose JSON body follows `schema`. `example`: a body that
    succeeds, but for the model, which `server/openapi.py` names."""
    body: dict[str, Any] = {"schema": _inlined(schema.model_json_schema())}
    if example is not None:
        body["example"] = example
    return {
        "tags": [tag],
        "responses": {
            code: {
                "description": _ERRORS[code],
                "content": {"application/json": {"schema": _ERROR}},
            }
            for code in errors
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": body},
            }
        },
    }


def generation_docs(
    schema: type[BaseModel], tag: str, *, example: dict[str, Any] | None = None
) -> Any:
    """The same for a generation route, which may respond with a stream."""
    docs = json_docs(schema, tag, (400, 404, 429, 503), example=example)
    docs["responses"][200] = {
        "description": "The answer, or with stream=true a stream of server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
    return docs


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Replaces the references in a (non-recursive) schema with their definitions."""
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolve(definitions[part["$ref"].rpartition("/")[2]])
        return {name: resolve(item) for name, item in part.items()}

    resolved: dict[str, Any] = resolve(schema)
    return resolved
