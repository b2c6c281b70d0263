"""Runs the HTTP server on a bound socket: services, app, uvicorn, shutdown.

Importing this module is the slowest part of startup, so `serve.py` does it while the engine loads.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import uvicorn

from shoal.bridge.remote import RemoteEngine
from shoal.checkpoint.find import ModelSelection
from shoal.config import Settings
from shoal.errors import ModelFolderError
from shoal.metrics import Metrics
from shoal.protocol.messages import AdapterSource, LoadedModel
from shoal.server.admission import Admission
from shoal.server.app import create_app
from shoal.server.auth import KeyRing
from shoal.server.services import Services
from shoal.text.text_model import TextModel, load_text_model

log = logging.getLogger("shoal.server")

LOOP_BEAT_S = 0.5
KEPT_OPEN_S = 0.5
"""Delay after draining, so that clients receive the end of their streams."""


async def serve_http(
    settings: Settings,
    selection: ModelSelection,
    adapters: Sequence[AdapterSource],
    client: RemoteEngine,
    metrics: Metrics,
    listener: socket.socket,
    stop: asyncio.Event,
) -> None:
    """Serves until `stop` is set or a signal arrives. Raises ModelFolderError for a folder whose
    tokenizer or chat template cannot be used."""
    models, failed = _text_models(selection)
    services = Services(
        settings=settings,
        client=client,
        models=models,
        failed=failed,
        admission=Admission(
            client.stats,
            max_batch_size=settings.max_batch_size,
            max_queue=settings.max_queue,
            max_queue_tokens=settings.max_queue_tokens,
            tenant_max_queue=settings.tenant_max_queue,
        ),
        keys=KeyRing(settings.api_keys),
        metrics=metrics,
    )
    services.adapters.set_bases(selection.sources)
    for adapter in adapters:
        for remark in services.adapters.add(adapter).remarks:
            log.warning(remark, extra={"model": adapter.name})
    server = _Server(_uvicorn_config(settings, services, listener), services, stop)
    background_tasks = [
        asyncio.create_task(_measure_loop_lag(services)),
        asyncio.create_task(_print_startup_message(client, server, services)),
        asyncio.create_task(_drain_and_stop(server, services, stop)),
    ]
    try:
        await server.serve(sockets=[listener])
    finally:
        for background_task in background_tasks:
            background_task.cancel()


def _text_models(selection: ModelSelection) -> tuple[dict[str, TextModel], dict[str, str]]:
    """Returns the loaded text models, and the reason for each model that failed. Raises
    ModelFolderError if a model that must load fails, or if all fail."""
    models: dict[str, TextModel] = {}
    failed = dict(selection.failed)
    for source in selection.sources:
        try:
            models[source.name] = load_text_model(source)
        except ModelFolderError as error:
            if not source.may_fail or (source is selection.sources[-1] and not models):
                raise
            failed[source.name] = error.message
    for model in models.values():
        for remark in model.remarks:
            log.warning(remark, extra={"model": model.name})
    for name, reason in failed.items():
        log.error("model failed", extra={"model": name, "reason": reason})
    return models, failed


class _Server(uvicorn.Server):
    """uvicorn.Server whose first signal starts draining and whose second exits at once."""

    def __init__(self, config: uvicorn.Config, services: Services, stop: asyncio.Event) -> None:
        super().__init__(config)
        self._services = services
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._services.draining:
            self.force_exit = self.should_exit = True
        self._services.draining = True
        self._loop.call_soon_threadsafe(self._stop.set)


async def _drain_and_stop(server: _Server, services: Services, stop: asyncio.Event) -> None:
    """Waits up to `drain_timeout` for running requests, then stops the server."""
    await stop.wait()
    services.draining = True
    log.info("draining", extra={"open_requests": len(services.open_requests)})
    if services.open_requests:
        await asyncio.wait(services.open_requests, timeout=services.settings.drain_timeout)
    if services.open_requests:
        await services.client.close()  # the remaining requests end with an error event
        await asyncio.sleep(KEPT_OPEN_S)
    server.should_exit = True


async def _measure_loop_lag(services: Services) -> None:
    """Records that the event loop is alive, and its lag."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(LOOP_BEAT_S)
        services.loop_beat = time.monotonic()
        services.metrics.loop_lag.set(max(0.0, services.loop_beat - before - LOOP_BEAT_S))


async def _print_startup_message(client: RemoteEngine, server: _Server, services: Services) -> None:
    """Prints the models, the URL and an example request once the server is ready."""
    await client.ready.wait()
    await server.listening.wait()
    host, port = server.config.host, server.config.port
    shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    url = f"http://{shown_host}:{port}"
    served = [model.name for model in services.served_models()]
    for line in (
        *_model_lines(client.loaded, served),
        *(f"  {model.name}: adapter of {model.parent}" for model in services.adapters.listed()),
        *_failure_lines(services),
    ):
        print(line, flush=True)
    if not served:  # possible if engine and tokenizer failed on different models
        return
    model = services.default_model
    auth = " -H 'Authorization: Bearer YOUR_KEY'" if services.keys else ""
    print(
        f"Shoal serves on {url} (docs: {url}/docs). Try:\n\n"
        f"  curl {url}/v1/completions -H 'Content-Type: application/json'{auth} \\\n"
        f'    -d \'{{"model": "{model}", "prompt": "Once upon a time", "max_tokens": 80}}\'\n',
        flush=True,
    )


def _model_lines(loaded: Mapping[str, LoadedModel], names: list[str]) -> list[str]:
    return [
        f"  {model.name}: {model.num_parameters / 1e6:.1f} M parameters, {model.dtype} on "
        f"{model.device} ({model.kernels} kernels), context {model.max_model_len}"
        + (f"; {model.kernels} because {model.kernels_reason}" if model.kernels_reason else "")
        for model in (loaded[name] for name in names if name in loaded)
    ]


def _failure_lines(services: Services) -> list[str]:
    return [f"  {name}: not served: {reason}" for name, reason in services.failures().items()]


def _uvicorn_config(
    settings: Settings, services: Services, listener: socket.socket
) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(services),
        host=settings.host,
        port=listener.getsockname()[1],
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.idle_keepalive,
        timeout_graceful_shutdown=2,
        ws="none",
        lifespan="off",
    )
