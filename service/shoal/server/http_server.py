"""Runs the HTTP server on a bound socket: services, app, uvicorn.

Importing this module is the slowest part of startup, so `serve.py` does it while the engine loads.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from shoal.bridge.remote import RemoteEngine
from shoal.checkpoint.find import ModelSelection
from shoal.config import Settings
from shoal.errors import ConfigError, ModelFolderError
from shoal.metrics import Metrics
from shoal.protocol.messages import AdapterSource, LoadedModel
from shoal.server.admission import Admission
from shoal.server.app import create_app, create_probe_app
from shoal.server.auth import KeyRing
from shoal.server.drain import Drain
from shoal.server.memory_watch import watch_memory
from shoal.server.services import Services
from shoal.server.wire.connections import Connections
from shoal.server.wire.limits import WireLimits
from shoal.server.wire.listener import PROBE_PLACES, find_places, url_of
from shoal.text.text_model import load_text_model

log = logging.getLogger("shoal.server")

LOOP_BEAT_S = 0.5
MAX_CLOSING_S = 1
"""Seconds that connections have at the end to take what was sent."""


async def serve_http(
    settings: Settings,
    selection: ModelSelection,
    adapters: Sequence[AdapterSource],
    client: RemoteEngine,
    metrics: Metrics,
    listener: socket.socket,
    probe_listener: socket.socket | None,
    stop: asyncio.Event,
) -> None:
    """Serves until `stop` is set or a signal arrives; each model as soon as it is loaded. Raises
    ModelFolderError for a folder whose tokenizer or chat template cannot be used."""
    services = Services(
        settings=settings,
        client=client,
        models={},
        failed=dict(selection.failed),
        configured=tuple(source.name for source in selection.sources),
        aliases={alias: source.name for source in selection.sources for alias in source.aliases},
        admission=Admission(
            client.stats,
            max_batch_size=settings.max_batch_size,
            max_queue=settings.max_queue,
            max_queue_tokens=settings.max_queue_tokens,
            tenant_max_queue=settings.tenant_max_queue,
            max_wait_s=settings.max_queue_wait,
        ),
        keys=KeyRing(settings.api_keys),
        metrics=metrics,
    )
    services.adapters.configure(selection.sources, adapters)
    drain = Drain(services, stop)
    limits, places = WireLimits.of(settings), find_places(settings.max_connections)
    if places.max_open < settings.max_connections:
        log.warning(
            "fewer connections than max_connections: the limit of open files is low",
            extra={"max_connections": places.max_open, "set": settings.max_connections},
        )
    connections = Connections(
        limits,
        max_open=places.max_open,
        reserved=PROBE_PLACES,
        on_end=lambda reason: metrics.connections_ended.labels(reason).inc(),
    )
    metrics.connections.set_function(lambda: len(connections))
    config = _uvicorn_config(settings, create_app(services), connections, places.backlog)
    probes = None
    if probe_listener is not None:
        few = Connections(limits, max_open=PROBE_PLACES, reserved=0)
        probe_app = create_probe_app(services)
        probes = (_uvicorn_config(settings, probe_app, few, PROBE_PLACES), probe_listener)
    server = _Server(config, drain, probes)
    if settings.keys_file is not None and hasattr(signal, "SIGHUP"):
        reload_keys = _KeysReload(services)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_keys.start)
    texts = asyncio.create_task(_load_texts(services, selection, stop))
    background_tasks = [
        texts,
        asyncio.create_task(_measure_loop_lag(services)),
        asyncio.create_task(
            _print_startup_message(client, server, services, selection.absent, texts)
        ),
        asyncio.create_task(watch_memory(services)),
        asyncio.create_task(_drain_and_stop(server, drain)),
    ]
    try:
        await server.serve(sockets=[listener])
    finally:
        for background_task in background_tasks:
            background_task.cancel()
    if texts.done() and not texts.cancelled():
        texts.result()  # raises what ended it, and the server


async def _load_texts(services: Services, selection: ModelSelection, stop: asyncio.Event) -> None:
    """Loads the text side of every model, in the engine's order, in a thread. If a model that must
    load fails, or all do, it stops the server and raises ModelFolderError."""
    for name, reason in services.failed.items():
        log.error("model failed", extra={"model": name, "reason": reason})
    sources = selection.smallest_first
    for source in sources:
        try:
            model = await asyncio.to_thread(load_text_model, source)
        except ModelFolderError as error:
            if not source.may_fail or (source is sources[-1] and not services.models):
                stop.set()
                raise
            log.error("model failed", extra={"model": source.name, "reason": error.message})
            services.failed[source.name] = error.message
            continue
        services.models[source.name] = model
        services.adapters.add_expected(model.name)
    gc.freeze()  # a large request would set off a collection that visits all of this


class _Server(uvicorn.Server):
    """uvicorn.Server whose signals drain it, and with a second port where one is set."""

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        probes: tuple[uvicorn.Config, socket.socket] | None,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._probes = probes
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._probes is not None:
            config, listener = self._probes
            config.load()

            def connect() -> asyncio.Protocol:
                return config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn does
                    config=config, server_state=self.server_state, app_state={}
                )

            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_server(connect, sock=listener))
        self.listening.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._drain.on_signal(sig):
            self.force_exit = self.should_exit = True


class _KeysReload:
    """Reads the keys file again at a signal."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._services.reload_keys()
        except ConfigError as error:
            log.error("the keys stay as they were", extra={"reason": error.message})


async def _drain_and_stop(server: _Server, drain: Drain) -> None:
    await drain.run()
    server.should_exit = True


async def _measure_loop_lag(services: Services) -> None:
    """Records that the event loop is alive, and its lag."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(LOOP_BEAT_S)
        services.loop_beat = time.monotonic()
        services.metrics.loop_lag.set(max(0.0, services.loop_beat - before - LOOP_BEAT_S))


async def _print_startup_message(
    client: RemoteEngine,
    server: _Server,
    services: Services,
    absent: Mapping[str, str],
    texts: "asyncio.Task[None]",
) -> None:
    """Prints the address, the models and an example request, and logs what is left out of the
    models' files. On a terminal the address comes first, while models still load: the page shows
    how far they are. Elsewhere it comes once all is ready, for whoever waits for that."""
    await server.listening.wait()
    url = url_of(server.servers[0].sockets[0])
    is_early = sys.stdout.isatty()
    if is_early:
        print(_address(url, services.settings), flush=True)
    await asyncio.wait([texts])
    await client.ready.wait()
    for name, remark in services.remarks():
        log.warning(remark, extra={"model": name})
    served = services.served_names()
    for line in (
        *_model_lines(client.loaded, served),
        *(f"  {model.name}: adapter of {model.parent}" for model in services.adapters.listed()),
        *_failure_lines(services),
        *(f"  {name}: {how_to_get}" for name, how_to_get in absent.items()),
    ):
        print(line, flush=True)
    if served:  # none if engine and tokenizer failed on different models
        address = "" if is_early else f"{_address(url, services.settings)}. "
        print(f"{address}Try:\n\n{_example(url, services)}\n", flush=True)


def _address(url: str, settings: Settings) -> str:
    parts = [
        *(["a page for browsers"] if settings.page else []),
        *([f"docs: {url}/docs"] if settings.docs else []),
    ]
    return f"Shoal serves on {url}" + (f" ({'; '.join(parts)})" if parts else "")


def _example(url: str, services: Services) -> str:
    """A request to the default model, for a shell."""
    model = services.models[services.default_model]
    auth = " -H 'Authorization: Bearer YOUR_KEY'" if services.keys else ""
    loaded = services.client.loaded.get(model.name)
    if loaded is not None and not loaded.generates:
        route, body = "embeddings", '"input": "a fish"'
    elif model.chat.source is not None:
        route = "chat/completions"
        messages = '[{"role": "user", "content": "Tell me a story about a fish."}]'
        body = f'"messages": {messages}, "max_tokens": 80'
    else:
        route, body = "completions", '"prompt": "Once upon a time", "max_tokens": 80'
    return (
        f"  curl {url}/v1/{route} -H 'Content-Type: application/json'{auth} \\\n"
        f'    -d \'{{"model": "{model.name}", {body}}}\''
    )


def _model_lines(loaded: Mapping[str, LoadedModel], names: list[str]) -> list[str]:
    return [
        f"  {model.name}: {model.num_parameters / 1e6:.1f} M parameters, {model.dtype} on "
        f"{model.device} ({model.kernels} kernels), context {model.max_model_len}"
        + (f", embeddings of {model.embedding_size} numbers" if model.embedding_size else "")
        + (f"; {model.kernels} because {model.kernels_reason}" if model.kernels_reason else "")
        for model in (loaded[name] for name in names if name in loaded)
    ]


def _failure_lines(services: Services) -> list[str]:
    return [f"  {name}: not served: {reason}" for name, reason in services.failures().items()]


def _uvicorn_config(
    settings: Settings, app: FastAPI, connections: Connections, backlog: int
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        http=connections.protocol(),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=backlog,
        timeout_keep_alive=settings.idle_keepalive,
        timeout_graceful_shutdown=MAX_CLOSING_S,
        ws="none",
        lifespan="off",
    )
