"""Entry point of `shoal serve`: starts the engine and imports the HTTP server while it loads.

The HTTP server accepts requests as soon as it is imported, even if models are still loading.
"""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable

from shoal.bridge.remote import RemoteEngine
from shoal.checkpoint.find import find_models
from shoal.checkpoint.find_adapters import find_adapters
from shoal.checkpoint.memory import use_one_arena
from shoal.config import Settings, engine_config, environment_remarks, forget_secrets
from shoal.logs import logging_to_stderr
from shoal.metrics import Metrics
from shoal.server.auth import check_keys
from shoal.server.run_file import run_file
from shoal.server.wire.listener import listen, url_of

log = logging.getLogger("shoal.server")

EXIT_ENGINE_FAILED = 3


def run(settings: Settings, listener: socket.socket | None = None) -> int:
    """Serves until a signal; returns the exit code. `listener`: a socket that listens already, in
    place of the port of the settings. Raises ConfigError or ModelFolderError for invalid settings
    or model folders."""
    use_one_arena()
    forget_secrets()
    with (
        logging_to_stderr(settings.log_level, settings.log_format),
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        fatal = runner.run(_serve(settings, listener))
    if fatal is None:
        return 0
    print(f"shoal: {fatal}", file=sys.stderr)  # the last word is for people, not a log line
    return EXIT_ENGINE_FAILED


async def _serve(settings: Settings, given: socket.socket | None) -> str | None:
    """Returns why the engine could not go on, None after a proper end."""
    for remark in (*environment_remarks(), *access_remarks(settings)):
        log.warning(remark)
    check_keys(settings)
    selection = find_models(settings.models, settings.models_dir, settings.default_model)
    adapters = find_adapters(settings.adapters, selection.sources)
    metrics = Metrics(by_tenant=settings.tenant_metrics)
    fatal: list[str] = []
    stop = asyncio.Event()

    def engine_failed(reason: str) -> None:
        fatal.append(reason)
        stop.set()

    client = RemoteEngine(
        engine_config(settings, selection.smallest_first, adapters),
        observer=metrics,
        on_fatal=engine_failed,
    )
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(given or listen(settings))
        probe_listener = None
        if settings.probe_port is not None:
            probe_listener = sockets.enter_context(listen(settings, settings.probe_port))
        await client.start()
        try:
            await asyncio.sleep(0)  # sends the config to the engine before the slow import
            if given is None:
                sockets.enter_context(run_file(url_of(listener)))
            from shoal.server.http_server import serve_http

            await serve_http(
                settings, selection, adapters, client, metrics, listener, probe_listener, stop
            )
        finally:
            await client.close()
    return fatal[0] if fatal else None


def access_remarks(settings: Settings) -> list[str]:
    """What an operator should know about who may call."""
    if settings.has_keys or not settings.allow_unauthenticated:
        return []
    return [
        f"allow_unauthenticated: whoever reaches {settings.host}:{settings.port}, under whatever "
        "name, is served without a key"
    ]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not available on every platform
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
