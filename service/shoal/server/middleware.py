"""Middleware of every request, as plain ASGI: request id, access checks, access log, metrics.

The outermost layer also turns uncaught exceptions into an error response.
"""

import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from shoal.config import LOOPBACK_HOSTS
from shoal.errors import AuthenticationFailed, InternalError, PermissionDenied, ShoalError
from shoal.server.auth import ADMIN_PREFIX, OPEN_PATHS, SHARED_PREFIXES, is_open
from shoal.server.context import RequestContext, context_of
from shoal.server.error_shapes import error_bytes_at, request_id_headers
from shoal.server.errors import error_headers
from shoal.server.keys import ANYONE, Key, KeyLimits
from shoal.server.services import Services
from shoal.server.tenants import tenant_of
from shoal.server.wire.connection import WIRE

access_log = logging.getLogger("shoal.access")
NO_LIMITS = KeyLimits()
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class ContextMiddleware:
    """Request ids, one access log line and metric per request, uncaught exceptions."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        context = RequestContext(request_id, send)
        context.attach(scope)
        status = 0

        async def send_with_id(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                for name in request_id_headers(scope["path"]):
                    MutableHeaders(scope=message)[name] = request_id
                if self._services.draining or (
                    (wire := scope.get(WIRE)) and wire.closes_after(scope)
                ):
                    MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # a bug: log it and send an error response
            logging.getLogger("shoal.server").exception(
                "unhandled error", extra={"request_id": request_id}
            )
            if status == 0:
                await send_error(
                    scope, send_with_id, InternalError("the server failed on this request")
                )
        finally:
            self._log_request(scope, context, context.log_fields.pop("status", status))

    def _log_request(self, scope: Scope, context: RequestContext, status: int) -> None:
        """Writes one log line and counts the request; unknown routes share one label."""
        route = getattr(scope.get("route"), "path", "unknown")
        self._services.metrics.requests.labels(context.model, route, str(status)).inc()
        is_quiet = is_open(scope["method"], route) or route == "/metrics"
        level = logging.DEBUG if is_quiet else logging.INFO
        if access_log.isEnabledFor(level):
            fields = {
                "request_id": context.request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round((time.monotonic() - context.received) * 1000, 1),
                **({"model": context.model} if context.model else {}),
                **context.log_fields,
            }
            access_log.log(level, "request", extra=fields)


class AccessMiddleware:
    """Checks the API key; without configured keys accepts only loopback Host names."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services
        settings = services.settings
        self._check_host = not services.keys and not settings.allow_unauthenticated
        self._tenant_header = settings.tenant_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context, headers = context_of(scope), Headers(scope=scope)
        try:
            context.key = key = self._key(scope, headers)
        except ShoalError as error:
            await send_error(scope, send, error)
            return
        client = scope.get("client")
        address = str(client[0]) if client else ""
        context.tenant = tenant_of(key, headers, self._tenant_header) if key.name else address
        if key.limits != NO_LIMITS:
            send = self._with_limits(send, key)
        await self._app(scope, receive, send)

    def _with_limits(self, send: Send, key: Key) -> Send:
        """Every answer to a key with limits says what is left of them."""
        use = self._services.admission.rate_limits.of(key)

        async def send_with_limits(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in use.headers().items():
                    headers[name] = value
            await send(message)

        return send_with_limits

    def _key(self, scope: Scope, headers: Headers) -> Key:
        """The caller's key. Raises AuthenticationFailed or PermissionDenied."""
        if scope["path"] in OPEN_PATHS:  # probes come under any name
            return ANYONE
        if self._check_host and _host_name(headers.get("host", "")) not in LOOPBACK_HOSTS:
            # Protects a local server from DNS rebinding by web pages.
            raise PermissionDenied(
                "this server answers only to a loopback Host name",
                hint="set API keys or allow_unauthenticated to serve other names",
            )
        if is_open(scope["method"], scope["path"]):
            return ANYONE
        if scope["path"].startswith(ADMIN_PREFIX) and self._services.has_admin:
            return self._admin(headers)
        return self._own_key(headers, scope["path"])

    def _own_key(self, headers: Headers, path: str) -> Key:
        """The caller's; an admin's opens few routes. Raises AuthenticationFailed."""
        services = self._services
        if services.has_admin and path.startswith(SHARED_PREFIXES):
            try:
                return services.admin_keys.find(headers)
            except AuthenticationFailed:
                pass
        return services.keys.find(headers) if services.keys else ANYONE

    def _admin(self, headers: Headers) -> Key:
        """The admin's. Raises PermissionDenied for the key of somebody else."""
        try:
            return self._services.admin_keys.find(headers)
        except AuthenticationFailed:
            if self._services.keys:
                self._services.keys.find(headers)
                raise PermissionDenied("this key is no admin key") from None
            raise


async def send_error(scope: Scope, send: Send, error: ShoalError) -> None:
    """Sends a complete error response, in the shape of the API that was called."""
    headers = [(b"content-type", b"application/json")]
    headers += [(name.encode(), value.encode()) for name, value in error_headers(error).items()]
    body = error_bytes_at(scope, error)
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _host_name(host: str) -> str:
    """Host name without port and without the brackets of an IPv6 address."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name if not port or port.startswith(":") else host
    return host.partition(":")[0].lower()
