"""The APIs that generate text, by the names of the setting `apis`."""

from collections.abc import Iterator, Sequence

from fastapi import APIRouter

from shoal.server.api.anthropic.route import router as anthropic_router
from shoal.server.api.chat.route import router as chat_router
from shoal.server.api.completions.route import router as completions_router
from shoal.server.api.ollama.route import router as ollama_router
from shoal.server.api.responses.route import router as responses_router
from shoal.server.api.tgi.route import router as tgi_router

_ROUTERS: dict[str, tuple[APIRouter, ...]] = {
    "openai": (completions_router, chat_router),
    "responses": (responses_router,),
    "anthropic": (anthropic_router,),
    "tgi": (tgi_router,),
    "ollama": (ollama_router,),
}


def api_routers(names: Sequence[str]) -> Iterator[APIRouter]:
    """The routers of these APIs, always in the same order."""
    for name, routers in _ROUTERS.items():
        if name in names:
            yield from routers
