"""Pages that are read off the code: the HTTP routes with their fields, and the errors.

Routes come from the OpenAPI document, error codes from the exceptions and from the places that
raise them. What writes the pages: generate.py.
"""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from reference import ROOT, page, prose, table

from shoal import errors
from shoal.bridge.local import LocalEngine, now_s
from shoal.config import Settings
from shoal.engine.core import EngineCore
from shoal.metrics import Metrics
from shoal.protocol.messages import EngineConfig
from shoal.server.admission import Admission
from shoal.server.app import create_app
from shoal.server.auth import KeyRing
from shoal.server.services import Services

PACKAGE = ROOT / "service" / "shoal"
ROUTES = """\
From the server's OpenAPI document, which it serves at `/openapi.json` and, to try out, at
`/docs`. What belongs together stands in [The API](../api.md), errors in [Errors](errors.md)."""
ERRORS = """\
An error is `{"error": {"message", "type", "param", "code"}}`, some with a `hint`; the routes
of other APIs answer in the shape of those. In a stream that has begun it is the last event.
`Retry-After` (seconds) and `retry-after-ms` say when another try can succeed;
`x-should-retry: false` that none should be made. Below, … stands for what depends on the
request."""


def document() -> dict[str, Any]:
    """The OpenAPI document of a server with every route and no model."""
    settings = Settings(admin_keys=["docs:a-key-for-the-docs"])
    engine = LocalEngine(EngineCore({}, EngineConfig(models=()), now_s))
    admission = Admission(
        engine.stats,
        max_batch_size=settings.max_batch_size,
        max_queue=settings.max_queue,
        max_queue_tokens=settings.max_queue_tokens,
        tenant_max_queue=settings.tenant_max_queue,
        max_wait_s=settings.max_queue_wait,
    )
    services = Services(settings, engine, {}, admission, KeyRing(settings.api_keys), Metrics())
    return create_app(services).openapi()


def routes() -> str:
    """Every route: what it is for, its fields, the statuses it may answer with."""
    shown = document()
    lines = [
        "# HTTP routes",
        "",
        prose(ROUTES),
        "",
    ]
    for path, operations in shown["paths"].items():
        for method, operation in operations.items():
            lines += [f"## {method.upper()} {path}", ""]
            lines += [*_paragraphs(operation)]
            lines += _query(operation)
            lines += _body(operation, shown["components"]["schemas"])
            statuses = ", ".join(f"`{status}`" for status in sorted(operation["responses"]))
            lines += [f"Answers: {statuses}.", ""]
    return page(*lines)


def _paragraphs(operation: dict[str, Any]) -> Iterator[str]:
    for paragraph in (operation.get("description") or operation["summary"]).split("\n\n"):
        yield " ".join(paragraph.split())
        yield ""


def _query(operation: dict[str, Any]) -> list[str]:
    rows = [
        (f"`{given['name']}`", given["in"], _kind(given["schema"]), given.get("description", ""))
        for given in operation.get("parameters", ())
    ]
    return list(table(("parameter", "in", "type", "what"), rows)) if rows else []


def _body(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return []
    schema = content["schema"]
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else _default(field)
        rows.append((f"`{name}`", _kind(field), default, field.get("description", "")))
    return list(table(("field", "type", "default", "what"), rows)) if rows else []


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return "" if value is None else f"`{value}`"


def _kind(schema: dict[str, Any]) -> str:
    """The type of a field with its limits, in few words."""
    if "$ref" in schema:
        return "object"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        kinds = dict.fromkeys(_kind(option) for option in options)
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"array of {_kind(schema.get('items', {}))}"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return f"{kind}, {low:g} to {high:g}"
    if low is not None:
        return f"{kind}, from {low:g}"
    return f"{kind}, up to {high:g}" if high is not None else kind


def error_page() -> str:
    """Every code with its status, type and what the server says."""
    found: dict[tuple[int, str], tuple[str, str]] = {}
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.ShoalError)
    }
    for name, code, message in raised(set(classes)):
        kind = classes.get(name, errors.InvalidRequest)
        code = code or kind.code or ""
        key = (kind.status, code)
        if key not in found or (not found[key][1] and message):
            found[key] = (kind.type, message)
    for kind in classes.values():
        if kind.code is not None:
            found.setdefault((kind.status, kind.code), (kind.type, ""))
    rows: list[tuple[object, ...]] = [
        (status, f"`{code}`", f"`{kind}`", message)
        for (status, code), (kind, message) in sorted(found.items())
        if code not in NOT_SENT
    ]
    return page(
        "# Errors",
        "",
        prose(ERRORS),
        "",
        *table(("status", "code", "type", "for example"), rows),
    )


NOT_SENT = {"invalid_model_folder", "invalid_setting", "client_closed_request"}
"""Codes for logs and the command line."""


def raised(names: set[str]) -> Iterator[tuple[str, str, str]]:
    """(class, code or "", message) of each place that makes an error with a message."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id not in names | {"FieldProblem"}:
                continue
            codes = [word.value for word in node.keywords if word.arg == "code"]
            code = codes[0].value if codes and isinstance(codes[0], ast.Constant) else ""
            if codes and not code:
                continue
            yield node.func.id, code, _message(node.args[0]) if node.args else ""


def _message(node: ast.expr) -> str:
    """The text of a message, … for what is put in; "" where it is made elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values)
        return "".join(parts)
    return ""
