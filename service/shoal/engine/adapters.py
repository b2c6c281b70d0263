"""Which adapters the models of an engine have, and when one that is to go may go."""

from shoal.engine.preparing import Preparing
from shoal.engine.scheduler import Scheduler
from shoal.errors import ModelFolderError
from shoal.protocol.messages import AdapterLoaded, AdapterSource, AdapterUnloaded
from shoal.protocol.step import AdaptableRunner, Runner


class EngineAdapters:
    """Adapters by id. One that is unloaded stays until its last sequence is over."""

    def __init__(self) -> None:
        self._models: dict[str, tuple[Scheduler, Runner, Preparing]] = {}
        self._base_of: dict[int, str] = {}
        self._leaving: list[int] = []

    def add_model(
        self, name: str, scheduler: Scheduler, runner: Runner, preparing: Preparing
    ) -> None:
        """One more model that adapters may change."""
        self._models[name] = scheduler, runner, preparing

    def remove_model(self, name: str) -> None:
        """Its adapters go with it."""
        del self._models[name]
        self._base_of = {i: base for i, base in self._base_of.items() if base != name}

    def has(self, model: str, adapter_id: int) -> bool:
        """May a sequence of the model be added with it? 0, no adapter, always."""
        is_loaded = self._base_of.get(adapter_id) == model and adapter_id not in self._leaving
        return adapter_id == 0 or is_loaded

    def load(self, source: AdapterSource) -> AdapterLoaded:
        """Raises ModelFolderError."""
        if source.model not in self._models:
            raise ModelFolderError(f"its base model {source.model} is not served")
        runner = self._models[source.model][1]
        if not isinstance(runner, AdaptableRunner):
            raise ModelFolderError(f"model {source.model} takes no adapters")
        loaded = runner.load_adapter(source)
        self._base_of[source.adapter_id] = source.model
        return loaded

    def unload(self, adapter_id: int) -> None:
        """No sequence may be added with it from now on."""
        self._leaving.append(adapter_id)

    def take_unloaded(self) -> list[AdapterUnloaded]:
        """Frees those that no sequence has any more; an id that was never loaded is free."""
        if not self._leaving:
            return []
        free = [adapter_id for adapter_id in self._leaving if not self._is_used(adapter_id)]
        for adapter_id in free:
            self._leaving.remove(adapter_id)
            base = self._base_of.pop(adapter_id, None)
            runner = self._models[base][1] if base is not None else None
            if isinstance(runner, AdaptableRunner):
                runner.unload_adapter(adapter_id)
        return [AdapterUnloaded(adapter_id) for adapter_id in free]

    def _is_used(self, adapter_id: int) -> bool:
        base = self._base_of.get(adapter_id)
        if base is None:
            return False
        scheduler, _, preparing = self._models[base]
        return preparing.has_adapter(adapter_id) or any(
            seq.submit.adapter_id == adapter_id for seq in scheduler.sequences.values()
        )
