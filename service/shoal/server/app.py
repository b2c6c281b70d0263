"""create_app(services): routes, middleware, error handlers. Holds no logic of its own."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from shoal.errors import InvalidRequest, ShoalError
from shoal.server.api import health, models, tokenize
from shoal.server.api.chat.route import router as chat_router
from shoal.server.api.completions.route import router as completions_router
from shoal.server.errors import error_body, error_headers
from shoal.server.middleware import AccessMiddleware, ContextMiddleware
from shoal.server.services import Services

DESCRIPTION = "Small language models, served with continuous batching. OpenAI-compatible."


def create_app(services: Services) -> FastAPI:
    """The ASGI app over these parts. Tests call it too."""
    app = FastAPIOffline(
        title="Shoal",
        version=services.version,
        description=DESCRIPTION,
        docs_url="/docs" if services.settings.docs else None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        middleware=_middleware(services),
    )
    if not services.settings.docs:
        app.openapi_url = None
        app.router.routes.clear()
    app.state.services = services
    for router in (
        completions_router,
        chat_router,
        models.router,
        tokenize.router,
        health.router,
    ):
        app.include_router(router)
    app.openapi = _documented_by(app.openapi)  # type: ignore[method-assign]  # FastAPI's own way
    app.add_exception_handler(ShoalError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_framework_error)
    return app


def _middleware(services: Services) -> list[Middleware]:
    layers = [
        Middleware(ContextMiddleware, services=services),
        Middleware(AccessMiddleware, services=services),
    ]
    if services.settings.cors_origins:
        # Before the key check, since browsers send preflight requests without keys.
        layers.insert(
            1,
            Middleware(
                CORSMiddleware,
                allow_origins=services.settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Retry-After", "X-Ignored-Params"],
            ),
        )
    return layers


def _documented_by(generate: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """OpenAPI without the framework's 422, which this server never answers."""

    def openapi() -> dict[str, Any]:
        document = generate()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    return openapi


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ShoalError)
    return JSONResponse(error_body(error), error.status, headers=error_headers(error))


async def _answer_framework_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses, in our shape."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = InvalidRequest(
            f"this route does not take {request.method}", code="method_not_allowed"
        )
    elif error.status_code == 404:
        refusal = InvalidRequest("no such route", code="unknown_url", hint="see /docs")
    else:
        refusal = InvalidRequest("the request cannot be served")
    return JSONResponse(error_body(refusal), error.status_code, headers=dict(error.headers or {}))
