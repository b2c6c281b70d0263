"""POST /v1/requests/{request_id}/cancel."""

from typing import Any

from fastapi import APIRouter, Request

from shoal.errors import NotFound
from shoal.server.context import context_of
from shoal.server.services import is_admin, services_of

router = APIRouter(tags=["Requests"])


@router.post("/v1/requests/{request_id}/cancel")
async def cancel_request(request: Request, request_id: str) -> dict[str, Any]:
    """Ends a running request, named by its X-Request-Id. Its own answer, streamed or not, ends
    with what was generated so far: finish_reason "length", stop_reason "cancelled"; embeddings end
    with 400 request_cancelled. Callers can cancel their own requests, with an admin key all."""
    tenant = None if is_admin(request) else context_of(request.scope).tenant
    found = services_of(request).running.find(request_id, tenant)
    counts = [tokens for generation in found if (tokens := generation.cancel()) is not None]
    if not counts:
        raise NotFound("no such request is running", param="request_id")
    return {"cancelled": True, "tokens_generated": sum(counts)}
