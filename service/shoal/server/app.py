"""create_app(services): assembles routes, middleware and error handlers; contains no logic."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from shoal.errors import InvalidRequest, ShoalError
from shoal.server.api import (
    admin,
    admin_keys,
    health,
    models,
    requests,
    tokenize,
    usage,
)
from shoal.server.api.admin_models import admin_models_router
from shoal.server.api.apis import api_routers
from shoal.server.api.embeddings.route import router as embeddings_router
from shoal.server.api.scoring import choices, perplexity
from shoal.server.auth import OPEN_PATHS
from shoal.server.early_refusal import EarlyRefusal
from shoal.server.error_shapes import error_bytes_at
from shoal.server.errors import error_headers
from shoal.server.json import APIResponse
from shoal.server.middleware import AccessMiddleware, ContextMiddleware
from shoal.server.model_admin import ModelAdmin
from shoal.server.openapi import complete
from shoal.server.page.routes import page_routes
from shoal.server.services import Services

DESCRIPTION = "Small language models, served with continuous batching. OpenAI-compatible."


def create_app(services: Services) -> FastAPI:
    """Builds the ASGI app. Also used by tests."""
    app = FastAPIOffline(
        title="Shoal",
        version=services.version,
        description=DESCRIPTION,
        docs_url="/docs" if services.settings.docs else None,
        redoc_url=None,
        default_response_class=APIResponse,
        redirect_slashes=False,  # a redirect would be built from the Host header
        middleware=_middleware(services),
    )
    if not services.settings.docs:
        app.openapi_url = None
        app.router.routes.clear()
    app.state.services = services
    if services.settings.page:
        app.router.routes.extend(page_routes(docs=services.settings.docs))
    for router in (
        *api_routers(services.settings.apis),
        models.router,
        tokenize.router,
        choices.router,
        perplexity.router,
        embeddings_router,
        requests.router,
        usage.router,
        health.router,
    ):
        app.include_router(router)
    if services.has_admin:
        app.include_router(admin.router)
        app.include_router(admin_models_router(ModelAdmin(services)))
        app.include_router(admin_keys.router)
    app.openapi = _completed(app.openapi, services)  # type: ignore[method-assign]  # as FastAPI documents it
    app.add_exception_handler(ShoalError, _handle_shoal_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    return app


def create_probe_app(services: Services) -> FastAPI:
    """The app of the probe port: health and metrics, with the same keys."""
    app = FastAPI(openapi_url=None, redirect_slashes=False, middleware=_middleware(services))
    app.state.services = services
    shown = OPEN_PATHS | {"/metrics"}
    app.router.routes += [
        route for route in health.router.routes if getattr(route, "path", "") in shown
    ]
    app.add_exception_handler(ShoalError, _handle_shoal_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    return app


def _middleware(services: Services) -> list[Middleware]:
    layers = [
        Middleware(ContextMiddleware, services=services),
        Middleware(AccessMiddleware, services=services),
        Middleware(EarlyRefusal, services=services),
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


def _completed(
    generate: Callable[[], dict[str, Any]], services: Services
) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        return complete(deepcopy(generate()), services)  # FastAPI keeps what it generated

    return openapi


async def _handle_shoal_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ShoalError)
    return _error_response(request, error, error_headers(error))


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    """Converts errors raised by the framework to the API's error format."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = InvalidRequest(
            f"this route does not take {request.method}", code="method_not_allowed"
        )
    elif error.status_code == 404:
        refusal = InvalidRequest("no such route", code="unknown_url", hint="see /docs")
    else:
        refusal = InvalidRequest("the request cannot be served")
    refusal.status = error.status_code
    return _error_response(request, refusal, dict(error.headers or {}))


def _error_response(request: Request, error: ShoalError, headers: dict[str, str]) -> Response:
    body = error_bytes_at(request.scope, error)
    return Response(body, error.status, headers, media_type="application/json")
