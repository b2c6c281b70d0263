"""Models that come and go while the server runs: both sides of each, HTTP's and the engine's."""

import asyncio
import logging

from shoal.checkpoint.catalogue import MODEL_NAME
from shoal.errors import Conflict, InvalidRequest, ModelFolderError, ModelNotFound, ShoalError
from shoal.protocol.messages import ModelSource
from shoal.server.services import Services
from shoal.text.text_model import TextModel, load_text_model

log = logging.getLogger("shoal.server")


class ModelAdmin:
    """Loads and unloads models of a running server."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._loads: set[asyncio.Task[None]] = set()

    async def start_load(self, name: str, path: str) -> "asyncio.Task[None]":
        """Checks the folder and starts to load it; the task ends when the model is served. Raises
        InvalidRequest for a name or a folder that does not do, Conflict for a name that is taken.
        """
        services = self._services
        self._check_name(name)
        services.loading.add(name)
        try:
            model = await asyncio.to_thread(load_text_model, ModelSource(name, path))
        except ModelFolderError as error:
            raise InvalidRequest(error.message, param="path") from error
        finally:
            services.loading.discard(name)
        services.failed.pop(name, None)
        services.configured = (*services.all_names(), name)
        services.added.add(name)
        task = asyncio.create_task(self._load(model, ModelSource(name, path, may_fail=True)))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)
        await asyncio.sleep(0)  # the engine is told, so the model has a state
        return task

    async def unload(self, name: str, *, drain: bool) -> None:
        """Requests for it get 404 from now on; returns when those that run are over and its memory
        is free. Raises ModelNotFound, and Conflict while it is loading, or has requests and is not
        to be drained."""
        services = self._services
        if name not in services.all_names():
            raise ModelNotFound(f"there is no model {name[:100]!r}", param="name")
        if name not in services.client.loaded or name not in services.models:
            raise Conflict(f"model {name} is loading", param="name")
        num_running = services.admission.in_flight(name)
        if num_running and not drain:
            raise Conflict(
                f"model {name} has {num_running} sequences in flight",
                param="name",
                hint='send "drain": true to wait for their end',
            )
        self._forget(name)
        await services.running.wait_for_none(name)
        await services.client.unload_model(name)
        services.metrics.forget(name)

    async def _load(self, model: TextModel, source: ModelSource) -> None:
        services = self._services
        try:
            await services.client.load_model(source)
        except ShoalError as error:
            log.error("model failed", extra={"model": model.name, "reason": error.message})
            self._forget(model.name)
            services.failed[model.name] = error.message
            return
        services.models[model.name] = model
        services.adapters.add_base(source)

    def _forget(self, name: str) -> None:
        """No request may have it any more, nor one of its adapters."""
        services = self._services
        services.models.pop(name, None)
        services.added.discard(name)
        services.configured = tuple(other for other in services.all_names() if other != name)
        services.aliases = {
            alias: model for alias, model in services.aliases.items() if model != name
        }
        services.adapters.remove_base(name)

    def _check_name(self, name: str) -> None:
        services = self._services
        if not MODEL_NAME.fullmatch(name):
            raise InvalidRequest(
                "name may hold letters, digits and _ . : / -, a letter or digit first", param="name"
            )
        is_served = name in services.client.loaded and name in services.models
        if is_served or name in services.aliases or services.adapters.find(name) is not None:
            raise Conflict(
                f"there is a model {name[:100]!r} already",
                code="already_loaded",
                param="name",
                hint="unload it first, or take another name",
            )
        is_failed = services.failure_of(name) is not None
        if name in services.loading or (name in services.all_names() and not is_failed):
            raise Conflict(f"model {name} is loading", param="name")
