"""The engine as a child process over an inherited socket pair.

Each step sends one frame for all its sequences. It is decoded and delivered inside the
protocol's `data_received`, so a step wakes the event loop once. `supervisor.py` starts and
restarts the child process.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from shoal.bridge.adapters import AdapterTable
from shoal.bridge.engine_client import Dispatcher, ModelState, SequenceSink, StepObserver
from shoal.bridge.models import ModelTable
from shoal.bridge.recovery import Recovery
from shoal.bridge.supervisor import Supervisor
from shoal.errors import EngineRestarted, ModelNotFound, ShoalError, Unavailable
from shoal.protocol import codec
from shoal.protocol.messages import (
    Abort,
    AdapterEvent,
    AdapterFailed,
    AdapterLoaded,
    AdapterSource,
    AdapterUnloaded,
    Alive,
    CacheReset,
    EngineConfig,
    EngineFailed,
    EngineStats,
    FromEngine,
    Heartbeat,
    LoadAdapter,
    Loaded,
    LoadedModel,
    LoadFailed,
    Loading,
    LoadModel,
    ModelSource,
    ModelUnloaded,
    PromptPart,
    Ready,
    ResetCache,
    StepOutputs,
    Submit,
    ToEngine,
    UnloadAdapter,
    UnloadModel,
)

log = logging.getLogger("shoal.engine")

HANG_S = 30.0
"""Seconds without a message after which a serving engine is killed and restarted."""


class RemoteEngine:
    """EngineClient for an engine in a child process."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        observer: StepObserver | None = None,
        on_fatal: Callable[[str], None] | None = None,
    ) -> None:
        """`on_fatal` is called once with the reason when the engine cannot be started."""
        self._config = config
        self._dispatcher = Dispatcher(observer)
        self._on_fatal = on_fatal
        self._supervisor = Supervisor(self._make_connection, self._handle_exit)
        self._connection: _Connection | None = None
        self._ids = itertools.count(1)
        self._loaded: dict[str, LoadedModel] = {}
        self._states = {model.name: ModelState() for model in config.models}
        self._models = ModelTable(config.models)
        self._adapters = AdapterTable(config.adapters)
        self._recovery = Recovery()
        self._last_message_at = self._last_progress_at = time.monotonic()
        self._closing = False
        self.ready = asyncio.Event()
        """Set while the engine serves: every model has either loaded or failed."""
        self._watchdog: asyncio.Task[None] | None = None

    # --- EngineClient --------------------------------------------------------------------------

    @property
    def loaded(self) -> Mapping[str, LoadedModel]:
        return self._loaded

    @property
    def states(self) -> Mapping[str, ModelState]:
        return self._states

    @property
    def stats(self) -> Mapping[str, EngineStats]:
        return self._dispatcher.stats

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._last_message_at

    @property
    def pid(self) -> int | None:
        """Process id of the engine, while one runs."""
        return self._supervisor.pid

    @property
    def adapters(self) -> Mapping[int, AdapterLoaded]:
        return self._adapters.ready

    @property
    def failed_adapters(self) -> Mapping[int, str]:
        return self._adapters.failed

    async def load_model(self, source: ModelSource) -> None:
        if self._connection is None or not self.ready.is_set():
            raise Unavailable("the engine is starting", code="model_loading", retry_after_s=2.0)
        self._states[source.name] = ModelState()
        self._connection.send(LoadModel(source))
        try:
            await self._models.load(source)
        except ShoalError:
            self._states.pop(source.name, None)
            raise

    async def unload_model(self, name: str) -> None:
        self._loaded.pop(name, None)
        self._states.pop(name, None)
        if self._connection is not None:
            self._connection.send(UnloadModel(name))
        await self._models.unload(name, is_gone=self._connection is None)
        self._dispatcher.stats.pop(name, None)

    async def reset_cache(self, name: str = "") -> int:
        if self._connection is None:
            return 0
        self._connection.send(ResetCache(name))
        return await self._models.reset()

    async def load_adapter(self, source: AdapterSource) -> None:
        if self._connection is None or source.model not in self._loaded:
            raise _is_loading(source.model)
        self._connection.send(LoadAdapter(source))
        await self._adapters.loaded(source)

    async def unload_adapter(self, adapter_id: int) -> None:
        self._adapters.leave(adapter_id)
        if self._connection is not None:
            self._connection.send(UnloadAdapter(adapter_id))
            await self._adapters.unloaded(adapter_id)

    def forget_adapter(self, adapter_id: int) -> None:
        self._adapters.leave(adapter_id)

    def new_seq_id(self) -> int:
        return next(self._ids)

    def submit(self, message: Submit, sink: SequenceSink) -> None:
        if message.model not in self._states:
            raise ModelNotFound("the model was unloaded", param="model")
        if self._connection is None or message.model not in self._loaded:
            raise _is_loading(message.model)
        self._adapters.check(message.adapter_id)
        self._recovery.submitted(message)
        self._dispatcher.add(message.seq_id, sink)
        self._connection.send(message)

    def abort(self, seq_ids: Sequence[int]) -> None:
        known = self._dispatcher.drop(seq_ids)
        if self._recovery.drop(known):
            self._send_held()
        if known and self._connection is not None:
            self._connection.send(Abort(known))

    async def start(self) -> None:
        await self._supervisor.start()
        self._watchdog = asyncio.create_task(self._watch_heartbeats(), name="engine-watchdog")

    async def close(self) -> None:
        self._closing = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        await self._supervisor.stop()

    # --- connection and process events ----------------------------------------------------------

    def _make_connection(self) -> asyncio.Protocol:
        config = msgspec.structs.replace(
            self._config, models=self._models.wanted, adapters=self._adapters.wanted
        )
        self._connection = _Connection(self._handle_message, first=config)
        self._last_message_at = self._last_progress_at = time.monotonic()
        return self._connection

    async def _watch_heartbeats(self) -> None:
        """Kills a serving engine whose loop does nothing for HANG_S; one that loads may need
        longer. Fails what has waited too long for the next engine."""
        while True:
            await asyncio.sleep(self._config.heartbeat_s)
            if self.ready.is_set() and time.monotonic() - self._last_progress_at > HANG_S:
                self._last_progress_at = time.monotonic()
                self._supervisor.kill_hung()
            if self._recovery.has_held:
                self._dispatcher.fail(self._recovery.overdue())

    def _handle_message(self, connection: "_Connection", message: FromEngine) -> None:
        if connection is not self._connection:  # late message from a previous engine process
            return
        self._last_message_at = time.monotonic()
        if isinstance(message, Alive):  # the process is, which says nothing of its loop
            return
        self._last_progress_at = self._last_message_at
        match message:
            case StepOutputs():
                is_turn = bool(message.started or message.finished) and self._recovery.heard(
                    message
                )
                self._dispatcher.deliver(message)
                if is_turn:
                    self._send_held()
            case PromptPart():
                self._dispatcher.add_part(message)
            case Heartbeat():
                self._dispatcher.note_stats(message.stats)
            case ModelUnloaded():
                self._models.unloaded(message.model)
            case CacheReset():
                self._models.cache_reset(message.num_blocks)
            case AdapterLoaded() | AdapterFailed() | AdapterUnloaded():
                self._handle_adapter(message)
            case Loading():
                self._states[message.model].progress = message.progress
            case LoadFailed() if self._models.failed(message.model, message.message):
                pass  # whoever asked for it is told
            case LoadFailed():
                log.error("model failed", extra={"model": message.model, "reason": message.message})
                self._states[message.model] = ModelState("failed", reason=message.message)
            case Loaded():
                self._loaded[message.model.name] = message.model
                self._states[message.model.name] = ModelState("ready", 1.0)
                self._models.loaded(message.model.name)
                self._send_held()
            case Ready():
                self._supervisor.came_up()
                self.ready.set()
                self._dispatcher.fail(self._recovery.unsendable(self._can_run))
            case EngineFailed():
                log.error("engine failed", extra={"reason": message.message})
                for state in self._states.values():
                    state.state, state.reason = "failed", message.message

    def _handle_adapter(self, event: AdapterEvent) -> None:
        self._adapters.handle(event)
        if isinstance(event, AdapterLoaded):
            self._send_held()

    def _can_run(self, submit: Submit) -> bool:
        """Has the engine what the sequence needs?"""
        has_adapter = submit.adapter_id == 0 or submit.adapter_id in self._adapters.ready
        return submit.model in self._loaded and has_adapter

    def _send_held(self) -> None:
        """Sequences that the last engine ended with, as far as it is their turn."""
        if self._connection is not None and self._recovery.has_held:
            for submit in self._recovery.to_send(self._can_run):
                self._connection.send(submit)

    def _handle_exit(self, exit_code: int, is_final: bool) -> None:
        """Handles the end of the engine process: sequences that had produced something fail with
        one error, the others wait for the next engine."""
        self._connection = None
        self._dispatcher.forget_parts()
        self._loaded.clear()
        self.ready.clear()
        error: ShoalError = (
            Unavailable("the server is shutting down", code="shutting_down", retry_after_s=5.0)
            if self._closing
            else EngineRestarted("the engine was restarted; try again", retry_after_s=2.0)
        )
        if self._closing or is_final:
            self._recovery.give_up()
            self._dispatcher.fail_all(error)
        else:
            self._dispatcher.fail(self._recovery.engine_ended(exit_code))
        self._adapters.engine_ended(error)
        for name in [name for name in self._states if self._models.is_being_added(name)]:
            del self._states[name]
        self._models.engine_ended(error)
        reasons = [state.reason for state in self._states.values() if state.reason]
        if is_final and self._on_fatal is not None and not self._closing:
            self._on_fatal(reasons[0] if reasons else f"engine exited with code {exit_code}")
        elif not self._closing:
            for name in self._states:
                self._states[name] = ModelState()


def _is_loading(model: str) -> Unavailable:
    return Unavailable(f"model {model} is loading", code="model_loading", retry_after_s=2.0)


class _Connection(asyncio.Protocol):
    """The server's end of the socket pair: sends and receives frames."""

    def __init__(
        self, on_message: Callable[["_Connection", FromEngine], None], *, first: ToEngine
    ) -> None:
        """`first` is sent as soon as the connection is made."""
        self._on_message = on_message
        self._first = first
        self._buffer = codec.FrameBuffer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.send(self._first)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._buffer.feed(data):
                self._on_message(self, codec.decode_from_engine(body))
        except codec.FrameError:
            log.exception("invalid frame from the engine")
            if self._transport is not None:
                self._transport.abort()

    def send(self, message: ToEngine) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(codec.encode(message))
