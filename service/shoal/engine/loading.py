"""Loads models in a thread beside the engine's loop, which serves each as soon as it is ready:
first those of the config, then what is asked for while the engine runs.

One after the other, in the order of the config: what comes first answers at once, whatever else is
to come, and at no time do two models unpack their weights.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator

from shoal.errors import ShoalError
from shoal.protocol.messages import EngineConfig, LoadFailed, Loading, ModelSource
from shoal.protocol.step import LoadedRunner

Load = Callable[[ModelSource, EngineConfig, int, Callable[[float], None]], LoadedRunner]
"""(source, config, bytes for the KV cache, on_progress) -> a model that is ready."""

_log = logging.getLogger(__name__)


class LoadError(Exception):
    """A model could not be loaded; the message is for the operator."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


Event = Loading | LoadFailed | LoadedRunner | LoadError | None
"""LoadError: the engine cannot go on. None: every model of the config is loaded or has failed."""


class Loader:
    """One thread that loads all models of a config, each with an even share of the KV budget that
    is left, and later those that are added."""

    def __init__(self, config: EngineConfig, load: Load, on_event: Callable[[], None]) -> None:
        """`on_event` is called in the thread after each event."""
        self._config = config
        self._load = load
        self._on_event = on_event
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._added: queue.SimpleQueue[tuple[ModelSource, int]] = queue.SimpleQueue()
        self.has_started = False
        """Have the last `events` told that the config is done?"""
        self._num_open = 1  # what has not ended: the config, each model that was added
        threading.Thread(target=self._run, name="loader", daemon=True).start()

    def add(self, source: ModelSource, kv_bytes: int) -> None:
        """One more model, with so much of the KV budget; ends in LoadedRunner or LoadFailed."""
        self._num_open += 1
        self._added.put((source, kv_bytes))

    @property
    def is_busy(self) -> bool:
        """Will there be more events?"""
        return self._num_open > 0

    def events(self) -> Iterator[Event]:
        """What happened since the last call. Nothing follows a LoadError."""
        while True:
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return
            if event is None or (self.has_started and not isinstance(event, Loading)):
                self._num_open -= 1
            yield event
            self.has_started = self.has_started or event is None

    def _tell(self, event: Event) -> None:
        self._events.put(event)
        self._on_event()

    def _run(self) -> None:
        left_bytes = self._config.kv_cache_bytes
        sources = self._config.models
        failure: LoadError | None = None
        has_loaded = False
        for index, source in enumerate(sources):
            share = left_bytes // (len(sources) - index)
            try:
                self._tell(self._load_one(source, share))
            except LoadError as error:
                if not source.may_fail:
                    self._tell(error)
                    return
                failure = error
                self._tell(LoadFailed(source.name, str(error)))
            else:
                has_loaded = True
                left_bytes -= share
        if failure is not None and not has_loaded:
            self._tell(failure)
            return
        self._tell(None)
        while True:
            source, kv_bytes = self._added.get()
            try:
                self._tell(self._load_one(source, kv_bytes))
            except LoadError as error:
                self._tell(LoadFailed(source.name, str(error)))

    def _load_one(self, source: ModelSource, kv_bytes: int) -> LoadedRunner:
        reported = 0.0

        def on_progress(progress: float) -> None:
            nonlocal reported
            if progress >= reported + 0.01 or progress >= 1.0:
                reported = progress
                self._tell(Loading(source.name, progress))

        self._tell(Loading(source.name, 0.0))
        try:
            return self._load(source, self._config, kv_bytes, on_progress)
        except ShoalError as error:
            raise LoadError(f"model {source.name}: {error.message}", error.code or "") from error
        except MemoryError as error:
            raise LoadError(f"model {source.name}: not enough memory", "out_of_memory") from error
        except Exception as error:  # a fault of ours or of a library: it too ends with a message
            _log.exception("loading %s failed", source.name)
            message = f"model {source.name} could not be loaded: {type(error).__name__}: {error}"
            raise LoadError(message, "internal_error") from error
