"""The adapters that are served, by name: what the HTTP side keeps of each, and how they come and go
while the server runs.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from shoal.bridge.engine_client import EngineClient
from shoal.checkpoint.adapter import AdapterFolder
from shoal.checkpoint.find_adapters import base_paths, find_base
from shoal.errors import ConfigError, InvalidRequest, ModelFolderError, ModelNotFound, Unavailable
from shoal.protocol.messages import AdapterSource, ModelSource
from shoal.text.text_model import TextModel


class AdapterRegistry:
    """Adapters of the served models. Each speaks as its base does, under a name of its own."""

    def __init__(self, client: EngineClient, models: Mapping[str, TextModel]) -> None:
        self._client = client
        self._models = models
        self._bases: dict[str, str] = dict.fromkeys(models, "")  # name -> path
        self._adapters: dict[str, TextModel] = {}
        self._expected: dict[str, AdapterSource] = {}
        self._taken: set[str] = set()
        self._last_id = 0
        self._first_ids: frozenset[int] = frozenset()  # of those that the engine loads at its start

    def configure(self, models: Sequence[ModelSource], adapters: Sequence[AdapterSource]) -> None:
        """The models, since an adapter may name its base by its folder, and the adapters that the
        engine loads at its start, each with its base."""
        self._bases = base_paths(models)
        self._taken = {name for model in models for name in (model.name, *model.aliases)}
        self._expected = {adapter.name: adapter for adapter in adapters}
        self._last_id = max((adapter.adapter_id for adapter in adapters), default=0)
        self._first_ids = frozenset(adapter.adapter_id for adapter in adapters)

    def add_base(self, source: ModelSource) -> None:
        """One more model that adapters may change."""
        self._bases[source.name] = source.path
        self._taken.add(source.name)

    def remove_base(self, name: str) -> None:
        """The model goes, and its adapters with it."""
        self._bases.pop(name, None)
        self._taken.discard(name)
        for adapter in [a for a in self._adapters.values() if a.base == name]:
            del self._adapters[adapter.name]
            self._client.forget_adapter(adapter.adapter_id)

    def is_expected(self, name: str) -> bool:
        """Will there be an adapter of this name once its base is loaded?"""
        return name in self._expected

    def is_complete(self, base: str) -> bool:
        """Has the engine loaded, or failed to load, all of a model's adapters that it loads at its
        start?"""
        known = self._client.adapters.keys() | self._client.failed_adapters.keys()
        return all(
            adapter.base != base
            or adapter.adapter_id not in self._first_ids
            or adapter.adapter_id in known
            for adapter in self._adapters.values()
        )

    def find(self, name: str) -> TextModel | None:
        return self._adapters.get(name)

    def listed(self) -> list[TextModel]:
        """In the order in which they came; includes those still loading."""
        return list(self._adapters.values())

    def ready_base(self, name: str) -> str | None:
        """The base of an adapter that may be used; None if there is no adapter of this name. Raises
        Unavailable while it is loading, ModelNotFound for one that a restarted engine could not
        load again."""
        adapter = self._adapters.get(name)
        if adapter is None:
            return None
        if reason := self._client.failed_adapters.get(adapter.adapter_id):
            raise ModelNotFound(
                f"the model {name!r} could not be loaded: {reason[:1000]}", param="model"
            )
        if adapter.base in self._client.loaded and adapter.adapter_id not in self._client.adapters:
            raise Unavailable(f"model {name} is loading", code="model_loading", retry_after_s=2.0)
        return adapter.base

    def add_expected(self, base: str) -> None:
        """Those that the engine loads at its start with this model, whose text side is loaded now.
        Raises ModelFolderError."""
        sources = [source for source in self._expected.values() if source.model == base]
        for source in sources:
            self._add(source, self._text_model(source))
        for source in sources:
            del self._expected[source.name]

    async def load(self, name: str, path: str, model: str | None) -> TextModel:
        """Loads an adapter into the running engine; `model`: its base, None for the one that its
        config names. Raises InvalidRequest for a folder that does not do, Unavailable while the
        base is loading."""
        self._require_free(name)
        self._last_id += 1
        adapter_id = self._last_id
        try:
            base = await asyncio.to_thread(
                find_base, AdapterFolder(Path(path)), name, model, self._bases
            )
            source = AdapterSource(name, base, path, adapter_id, may_fail=True)
            adapter = await asyncio.to_thread(self._text_model, source)
            self._require_free(name)
            self._add(source, adapter)
            try:
                await self._client.load_adapter(source)
            except BaseException:
                del self._adapters[name]
                raise
        except (ModelFolderError, ConfigError) as error:
            raise InvalidRequest(error.message, param="path") from error
        return adapter

    async def unload(self, name: str) -> None:
        """Requests for it get 404 from now on; returns when those that run are over. Raises
        ModelNotFound."""
        adapter = self._adapters.pop(name, None)
        if adapter is None:
            raise ModelNotFound(f"there is no adapter {name[:100]!r}", param="name")
        await self._client.unload_adapter(adapter.adapter_id)

    def _text_model(self, source: AdapterSource) -> TextModel:
        folder = AdapterFolder(Path(source.path))
        base = self._models[source.model]
        unused = folder.unused_files(Path(self._bases[source.model]))
        remarks = (f"its own {', '.join(unused)}: those of {base.name} are used",) if unused else ()
        return replace(
            base,
            name=source.name,
            created=folder.created,
            remarks=remarks,
            parent=base.name,
            adapter_id=source.adapter_id,
            adapter_hash=folder.digest,
        )

    def _add(self, source: AdapterSource, adapter: TextModel) -> None:
        self._last_id = max(self._last_id, source.adapter_id)
        self._adapters[source.name] = adapter

    def _require_free(self, name: str) -> None:
        if name in self._adapters or name in self._expected or name in self._taken:
            raise InvalidRequest(
                f"there is a model {name[:100]!r} already: unload it first, or take another name",
                code="model_exists",
                param="name",
            )
