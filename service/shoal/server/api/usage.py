"""GET /v1/usage."""

from typing import Any

from fastapi import APIRouter, Request

from shoal.server.context import context_of
from shoal.server.services import is_admin, services_of

router = APIRouter(tags=["Usage"])


@router.get("/v1/usage")
async def usage(request: Request) -> dict[str, Any]:
    """The caller's totals per model and day (UTC) since the server started; an admin key sees those
    of all tenants. cpu_seconds and est_cost are null where they are not measured."""
    services = services_of(request)
    tenant = None if is_admin(request) else context_of(request.scope).tenant
    return {"object": "list", "since": services.usage.since, "data": services.usage.rows(tenant)}
