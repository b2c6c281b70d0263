"""Health, metrics, version and load. Cheap at any load; none of them uses the queue."""

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from shoal.server.json import APIResponse
from shoal.server.services import Services, services_of

MAX_ENGINE_SILENCE_S = 2.0
"""Not ready if the engine sent nothing for this long (two heartbeats)."""
MAX_LOOP_LAG_S = 5.0

router = APIRouter(tags=["Health"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez")
@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", include_in_schema=False)
async def live(request: Request) -> APIResponse:
    """200 while the event loop of this process is running."""
    lag_s = time.monotonic() - services_of(request).loop_beat
    alive = lag_s < MAX_LOOP_LAG_S
    return APIResponse({"status": "ok" if alive else "stuck"}, 200 if alive else 503)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", include_in_schema=False)
async def ready(request: Request) -> APIResponse:
    """200 when every model is ready and the engine responds. A model of models_dir that cannot be
    loaded is listed as failed and does not affect the others."""
    return _readiness(services_of(request))


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(request: Request) -> APIResponse:
    """200 when able to serve."""
    return _readiness(services_of(request))


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus text format."""
    services = services_of(request)
    _refresh_gauges(services)
    return PlainTextResponse(services.metrics.render(), media_type="text/plain; version=0.0.4")


@router.get("/version")
async def version(request: Request) -> dict[str, Any]:
    """Version of the server, and the device and kernels of each model."""
    services = services_of(request)
    return {
        "version": services.version,
        "models": {
            name: {
                "kernels": model.kernels,
                "kernels_reason": model.kernels_reason,
                "device": model.device,
                "dtype": model.dtype,
                "weights": model.weights_hash,
            }
            for name, model in services.client.loaded.items()
        },
    }


@router.get("/load")
async def load(request: Request) -> dict[str, Any]:
    """Running and waiting sequences, per model."""
    services = services_of(request)
    return {
        "models": {
            name: {
                "running": stats.num_running,
                "waiting": stats.num_waiting,
                "kv_used": round(stats.num_used_blocks / max(1, stats.num_blocks), 4),
                "tokens_per_second": round(stats.tokens_per_s, 1),
            }
            for name, stats in services.client.stats.items()
        }
    }


def _readiness(services: Services) -> APIResponse:
    states = services.states()
    models = {
        name: {
            "state": state.state,
            "progress": round(state.progress, 3),
            **({"reason": state.reason} if state.reason else {}),
        }
        for name, state in states.items()
    }
    awaited = [state for name, state in states.items() if name not in services.added]
    if services.draining:
        status = "shutting_down"
    elif services.drained:
        status = "draining"
    elif any(state.state == "loading" for state in awaited):
        status = "loading"
    elif states and all(state.state == "failed" for state in states.values()):
        status = "failed"
    elif not any(state.state == "ready" for state in states.values()):
        status = "loading" if states else "no_model"
    elif services.client.silent_s > MAX_ENGINE_SILENCE_S:
        status = "engine_silent"
    else:
        return APIResponse({"status": "ok", "models": models})
    return APIResponse({"status": status, "models": models}, 503)


def _refresh_gauges(services: Services) -> None:
    """Updates gauges when /metrics is requested, not at every step."""
    metrics = services.metrics
    for name, stats in services.client.stats.items():
        metrics.running.labels(name).set(stats.num_running)
        metrics.waiting.labels(name).set(stats.num_waiting)
        metrics.queue_tokens.labels(name).set(stats.waiting_tokens)
        metrics.kv_used.labels(name).set(stats.num_used_blocks)
        metrics.kv_total.labels(name).set(stats.num_blocks)
    for name, model in services.states().items():
        for state in ("loading", "ready", "failed"):
            metrics.model_state.labels(name, state).set(1 if model.state == state else 0)
