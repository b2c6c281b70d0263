"""Main of the engine process: read frames, step, write one frame per step; models load beside it.

Started by the HTTP side as `python -m shoal.engine.process FD`, FD being this process's end of a
socket pair (`link.py`). A wiring file: no other file of the engine knows how a runner is built. The
loop never waits for a reader or a writer while there is work. Exit codes: 0 after Shutdown or when
the parent is gone, 1 for a broken frame or a bug, 3 when a model could not be loaded.
"""

import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import msgspec

from shoal.engine.core import EngineCore
from shoal.engine.link import Link, ParentGoneError
from shoal.engine.loading import Load, Loader, LoadError
from shoal.engine.parent import end_with_parent
from shoal.errors import ShoalError
from shoal.protocol import codec
from shoal.protocol.messages import (
    Abort,
    AdapterFailed,
    AdapterLoaded,
    AdapterSource,
    CacheReset,
    EngineConfig,
    EngineFailed,
    Heartbeat,
    LoadAdapter,
    Loaded,
    LoadFailed,
    LoadModel,
    ModelSource,
    ModelUnloaded,
    Ready,
    ResetCache,
    Shutdown,
    Submit,
    ToEngine,
    UnloadAdapter,
    UnloadModel,
)
from shoal.protocol.step import LoadedRunner

EXIT_OK, EXIT_BROKEN_FRAME, EXIT_BAD_MODEL = 0, 1, 3

_MAX_UNSENT_BYTES = 64 << 20
"""With more than this unread by the parent no further step is run, or memory would grow."""
_STEPS_PER_COLLECTION = 1000
_EXIT_GRACE_S = 1.0

_log = logging.getLogger(__name__)


def main(fd: int, load: Load | None = None) -> int:
    """Runs the engine on the socket `fd` until told to stop; returns the exit code.
    `load` is the model loader, for tests; None is the real one."""
    # SIGINT and SIGTERM often reach the whole process group. The parent decides when the work is
    # drained: this process ends when the parent closes its end of the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()  # on SIGABRT from the supervisor it prints where a hung engine is
    connection = socket.socket(fileno=fd)
    end_with_parent(fd, _EXIT_GRACE_S, EXIT_OK)
    link = Link(connection)
    try:
        config, early = _first_frames(link)
        beat = threading.Thread(target=link.beat, args=(config.heartbeat_s,), daemon=True)
        beat.start()
        if load is None:
            config, load = _within_memory(config)
        core = EngineCore({}, config, time.monotonic)
        core.wake = link.wake
        loader = Loader(config, load, link.wake)
        _serve(link, core, loader, config, early)
        link.drain(_EXIT_GRACE_S)
    except ParentGoneError:
        return EXIT_OK
    except codec.FrameError as error:
        return _fail_and_exit(link, "invalid_frame", str(error), EXIT_BROKEN_FRAME)
    except LoadError as error:
        return _fail_and_exit(link, error.code, str(error), EXIT_BAD_MODEL)
    return EXIT_OK


# --- start ---------------------------------------------------------------------------------------


def _within_memory(config: EngineConfig) -> tuple[EngineConfig, Load]:
    """The config with a KV cache that fits into memory, and what loads the models that fit."""
    from shoal.runner.load import load_runner  # late: torch is loaded only in this process
    from shoal.runner.memory_plan import plan_memory

    plan = plan_memory(config)
    if plan.remark is not None:
        _log.warning(plan.remark)

    def load(
        source: ModelSource,
        config: EngineConfig,
        kv_bytes: int,
        on_progress: Callable[[float], None],
    ) -> LoadedRunner:
        plan.check(source)
        return load_runner(source, config, kv_bytes, on_progress)

    return msgspec.structs.replace(config, kv_cache_bytes=plan.kv_cache_bytes), load


def _first_frames(link: Link) -> tuple[EngineConfig, list[ToEngine]]:
    """The config, and the messages that arrived with it."""
    while not (messages := link.receive(timeout_s=None)):
        pass
    if not isinstance(messages[0], EngineConfig):
        raise codec.FrameError("the first frame must be EngineConfig")
    return messages[0], messages[1:]


def _take_loaded(link: Link, core: EngineCore, loader: Loader, config: EngineConfig) -> None:
    """Passes on what the loader has done since the last call, and loads the adapters of the config
    with their models. Raises LoadError for a model or an adapter that must load, and when no model
    could be loaded."""
    for event in loader.events():
        if isinstance(event, LoadedRunner) and loader.has_started:
            link.send(_add_model(core, event))
            _settle_memory()
        elif isinstance(event, LoadedRunner):
            link.send(Loaded(core.add_model(event.loaded.name, event)))
            _load_adapters(link, core, config, event.loaded.name)
        elif isinstance(event, LoadError):
            raise event
        elif event is not None:
            link.send(event)
            if isinstance(event, LoadFailed) and not loader.has_started:
                _load_adapters(link, core, config, event.model)  # each is answered: no base
        else:
            # From here on the garbage collector runs only where it delays no request, see _serve.
            gc.disable()
            _settle_memory()
            link.send(Ready())


def _add_model(core: EngineCore, model: LoadedRunner) -> Loaded | LoadFailed:
    """One that comes while others serve; a block of KV memory is the least it needs."""
    name, memory = model.loaded.name, model.kv_memory
    if memory is not None and core.kv_bytes_of_one_more < memory.block_bytes:
        return LoadFailed(name, f"model {name}: no KV memory is left: raise kv_cache_bytes")
    return Loaded(core.add_model(name, model))


def _settle_memory() -> None:
    """All objects so far live as long as their model: the garbage collector need not visit them
    again."""
    gc.collect()
    gc.freeze()


def _unload_model(link: Link, core: EngineCore, name: str) -> None:
    core.remove_model(name)
    gc.unfreeze()
    _settle_memory()
    from shoal.runner.load import give_back_memory  # late, as in _within_memory

    give_back_memory()
    link.send(ModelUnloaded(name))


def _load_adapters(link: Link, core: EngineCore, config: EngineConfig, model: str) -> None:
    """Those of the config that change this model. Raises LoadError."""
    for source in config.adapters:
        if source.model != model:
            continue
        answer = _load_adapter(core, source)
        if isinstance(answer, AdapterFailed) and not source.may_fail:
            raise LoadError(answer.message, "invalid_model_folder")
        link.send(answer)


def _load_adapter(core: EngineCore, source: AdapterSource) -> AdapterLoaded | AdapterFailed:
    """Whatever happens, the answer says it."""
    try:
        return core.load_adapter(source)
    except MemoryError:
        reason = "not enough memory"
    except ShoalError as error:
        reason = error.message
    except Exception as error:  # a fault of ours or of a library
        _log.exception("loading the adapter %s failed", source.name)
        reason = f"{type(error).__name__}: {error}"
    return AdapterFailed(source.adapter_id, f"adapter {source.name}: {reason}")


# --- the loop ------------------------------------------------------------------------------------


def _serve(
    link: Link, core: EngineCore, loader: Loader, config: EngineConfig, messages: list[ToEngine]
) -> None:
    """Runs until Shutdown. Deadlines need no timer: a sequence with a deadline is work, and every
    step checks them."""
    heartbeat_s = config.heartbeat_s
    num_steps = 0
    last_beat_s = link.last_sent_s
    while True:
        if loader.is_busy:
            _take_loaded(link, core, loader, config)
        if _handle_messages(link, core, loader, messages):
            return
        for unloaded in core.take_unloaded():
            link.send(unloaded)
        may_step = core.has_work and link.num_unsent_bytes < _MAX_UNSENT_BYTES
        if may_step and (outputs := core.step()) is not None:
            link.send_step(outputs)
            num_steps += 1
            if num_steps % _STEPS_PER_COLLECTION == 0:
                gc.collect(0)  # young objects only: well under a millisecond
            messages = link.receive(0.0)
            continue
        quiet_s = time.monotonic() - max(last_beat_s, link.last_sent_s)
        if quiet_s >= heartbeat_s:
            last_beat_s = time.monotonic()
            if link.num_unsent_bytes == 0:  # else the parent has enough to read already
                link.send(Heartbeat(core.stats()))
            if num_steps:
                num_steps = 0
                gc.collect()
        messages = link.receive(max(heartbeat_s - quiet_s, 0.0))


def _handle_messages(
    link: Link, core: EngineCore, loader: Loader, messages: list[ToEngine]
) -> bool:
    """True if one of them is Shutdown."""
    for message in messages:
        if isinstance(message, Submit):
            core.add(message)
        elif isinstance(message, Abort):
            core.abort(message.seq_ids)
            if not core.has_work:  # no step follows that would tell the new numbers
                link.send(Heartbeat(core.stats()))
        elif isinstance(message, LoadModel):
            loader.add(message.source, core.kv_bytes_of_one_more)
        elif isinstance(message, UnloadModel):
            _unload_model(link, core, message.model)
        elif isinstance(message, ResetCache):
            link.send(CacheReset(core.reset_cache(message.model)))
        elif isinstance(message, LoadAdapter):
            link.send(_load_adapter(core, message.source))
        elif isinstance(message, UnloadAdapter):
            core.unload_adapter(message.adapter_id)
        elif isinstance(message, Shutdown):
            return True
        else:
            raise codec.FrameError("EngineConfig came twice")
    return False


# --- ends ----------------------------------------------------------------------------------------


def _fail_and_exit(link: Link, code: str, message: str, exit_code: int) -> int:
    try:
        link.send(EngineFailed(code, message))
        link.drain(_EXIT_GRACE_S)
    except ParentGoneError:
        pass
    return exit_code


if __name__ == "__main__":
    exit_code = main(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(exit_code)  # does not wait for a load that goes on in the other thread
