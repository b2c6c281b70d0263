"""POST /admin/keys/reload."""

from typing import Any

from fastapi import APIRouter, Request

from shoal.errors import ConfigError, InvalidRequest
from shoal.server.services import services_of

router = APIRouter(tags=["Admin"])


@router.post("/admin/keys/reload")
async def reload_keys(request: Request) -> dict[str, Any]:
    """Reads the keys file again. A file that cannot be used changes nothing: 400 says why."""
    try:
        num_keys = await services_of(request).reload_keys()
    except ConfigError as error:
        raise InvalidRequest(
            error.message, hint="the keys stay as they were; correct the file and reload it"
        ) from error
    return {"object": "keys", "num_keys": num_keys}
