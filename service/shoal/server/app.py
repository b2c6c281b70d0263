"""create_app(services): assembles routes, middleware and error handlers; contains no logic."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from fastapi import FastAPI, Request
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from shoal.errors import InvalidRequest, ShoalError
from shoal.server.api import admin, health, models, tokenize
from shoal.server.api.chat.route import router as chat_router
from shoal.server.api.completions.route import router as completions_router
from shoal.server.errors import error_body, error_headers
from shoal.server.json import APIResponse
from shoal.server.middleware import AccessMiddleware, ContextMiddleware
from shoal.server.openapi import complete
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
    for router in (
        completions_router,
        chat_router,
        models.router,
        tokenize.router,
        health.router,
    ):
        app.include_router(router)
    if services.admin_keys:
        app.include_router(admin.router)
    app.openapi = _completed(app.openapi, services)  # type: ignore[method-assign]  # as FastAPI documents it
    app.add_exception_handler(ShoalError, _handle_shoal_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
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


def _completed(
    generate: Callable[[], dict[str, Any]], services: Services
) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        return complete(deepcopy(generate()), services)  # FastAPI keeps what it generated

    return openapi


async def _handle_shoal_error(request: Request, error: Exception) -> APIResponse:
    assert isinstance(error, ShoalError)
    return APIResponse(error_body(error), error.status, headers=error_headers(error))


async def _handle_http_exception(request: Request, error: Exception) -> APIResponse:
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
    return APIResponse(error_body(refusal), error.status_code, headers=dict(error.headers or {}))
