"""Entry point of `shoal serve`: starts the engine and imports the HTTP server while it loads.

The HTTP server accepts requests as soon as it is imported, even if models are still loading.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Callable

from shoal.bridge.remote import RemoteEngine
from shoal.checkpoint.find import find_models
from shoal.checkpoint.find_adapters import find_adapters
from shoal.checkpoint.memory import use_one_arena
from shoal.config import Settings, engine_config, environment_remarks, forget_secrets
from shoal.errors import ShoalError
from shoal.logs import logging_to_stderr
from shoal.metrics import Metrics
from shoal.server.auth import check_keys

log = logging.getLogger("shoal.server")

EXIT_ENGINE_FAILED = 3


def run(settings: Settings) -> int:
    """Serves until a signal; returns the exit code. Raises ConfigError or ModelFolderError
    for invalid settings or model folders."""
    use_one_arena()
    forget_secrets()
    with (
        logging_to_stderr(settings.log_level, settings.log_format),
        asyncio.Runner(loop_factory=_loop_factory()) as runner,
    ):
        return runner.run(_serve(settings))


async def _serve(settings: Settings) -> int:
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
    with listen(settings) as listener:
        await client.start()
        try:
            await asyncio.sleep(0)  # sends the config to the engine before the slow import
            from shoal.server.http_server import serve_http

            await serve_http(settings, selection, adapters, client, metrics, listener, stop)
        finally:
            await client.close()
    if fatal:
        print(f"shoal: {fatal[0]}", file=sys.stderr)
        return EXIT_ENGINE_FAILED
    return 0


def access_remarks(settings: Settings) -> list[str]:
    """What an operator should know about who may call."""
    if settings.has_keys or not settings.allow_unauthenticated:
        return []
    return [
        f"allow_unauthenticated: whoever reaches {settings.host}:{settings.port}, under whatever "
        "name, is served without a key"
    ]


def listen(settings: Settings) -> socket.socket:
    """Binds the socket. Raises ShoalError when the port cannot be used."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux only; inherited by connections
        # Otherwise unsent data for a stalled or vanished client would be kept forever.
        stall_ms = int(settings.stream_stall_timeout * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ShoalError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "is another server running? Choose another with --port"
        ) from error
    return listener


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not available on every platform
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
