"""The objects that routes use, built once at startup."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import Request

from shoal.bridge.engine_client import EngineClient, ModelState
from shoal.config import Settings
from shoal.errors import ConfigError, InvalidRequest, ModelNotFound, PermissionDenied, Unavailable
from shoal.metrics import Metrics
from shoal.protocol.messages import LoadedModel
from shoal.server.adapters import AdapterRegistry
from shoal.server.admission import Admission
from shoal.server.auth import KeyRing
from shoal.server.context import context_of
from shoal.server.energy import Price
from shoal.server.keys import Key, read_keys_file
from shoal.server.running import RunningGenerations
from shoal.server.usage import UsageLedger
from shoal.text.text_model import TextModel

log = logging.getLogger("shoal.server")


def shutting_down() -> Unavailable:
    """The error for new requests while the server drains."""
    return Unavailable("the server is shutting down", code="shutting_down", retry_after_s=5.0)


def memory_is_short() -> Unavailable:
    """The error for new requests while memory is nearly used up."""
    return Unavailable("the server is short of memory", retry_after_s=2.0)


def shoal_version() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:  # run from a source checkout
        return "0.0.0"


Use = Literal["text", "embedding"]
"""What a request wants of its model."""


@dataclass(slots=True)
class Services:
    """The objects that routes use."""

    settings: Settings
    client: EngineClient
    models: dict[str, TextModel]
    """Whose text side is loaded."""
    admission: Admission
    keys: KeyRing
    metrics: Metrics
    failed: dict[str, str] = field(default_factory=dict)
    """Models of models_dir whose tokenizer or template failed to load, with the reason."""
    added: set[str] = field(default_factory=set)
    """Models that were added while the server runs: it is ready without them."""
    loading: set[str] = field(default_factory=set)
    """Names of models whose folder is being looked at."""
    configured: tuple[str, ...] = ()
    """Names of all models, in the order of the settings; empty = those of `models`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of models -> the name each is served by."""
    version: str = field(default_factory=shoal_version)
    draining: bool = False
    """The server is shutting down."""
    drained: bool = False
    """An admin lets it take no new work, until that is undone."""
    memory_is_short: bool = False
    """New work is refused until there is more; see memory_watch.py."""
    open_requests: set["asyncio.Task[object]"] = field(default_factory=set)
    """Tasks of running generations; shutdown waits for them."""
    loop_beat: float = field(default_factory=time.monotonic)
    """Monotonic time at which the event loop was last known to run."""
    running: RunningGenerations = field(default_factory=RunningGenerations)
    usage: UsageLedger = field(default_factory=UsageLedger)
    adapters: AdapterRegistry = field(init=False)
    admin_keys: KeyRing = field(init=False)
    price: Price = field(init=False)

    def __post_init__(self) -> None:
        self.adapters = AdapterRegistry(self.client, self.models)
        self.price = Price(self.settings)
        self.admin_keys = KeyRing(self.settings.admin_keys, setting="admin_keys", role="admin")
        if self.settings.keys_file is not None:
            self.use_keys(read_keys_file(self.settings.keys_file))

    @property
    def has_admin(self) -> bool:
        """Are there admin routes?"""
        return bool(self.admin_keys) or self.settings.keys_file is not None

    def use_keys(self, keys: Sequence[Key]) -> None:
        """The keys of the keys file, from now on."""
        self.keys.set_file_keys(keys)
        self.admin_keys.set_file_keys(key for key in keys if key.role == "admin")

    async def reload_keys(self) -> int:
        """Reads the keys file again; how many keys it has. Raises ConfigError for a file that
        cannot be used: then the keys stay as they were."""
        if self.settings.keys_file is None:
            raise ConfigError("this server was started without a keys file")
        keys = await asyncio.to_thread(read_keys_file, self.settings.keys_file)
        self.use_keys(keys)
        log.info("keys file read", extra={"num_keys": len(keys)})
        return len(keys)

    def states(self) -> dict[str, ModelState]:
        """State of every configured model. Of its two sides, engine and text, the later one counts,
        and the adapters that the engine loads with it; it failed if one of the sides did."""
        states = dict(self.client.states)
        for name, state in states.items():
            is_whole = name in self.models and self.adapters.is_complete(name)
            if state.state == "ready" and not is_whole:
                states[name] = ModelState("loading", progress=0.99)
        failed = {name: ModelState("failed", reason=reason) for name, reason in self.failed.items()}
        return {**states, **failed}

    def failure_of(self, name: str) -> str | None:
        """Why a model failed while others are served; None if it is served or still loading."""
        state = self.client.states.get(name)
        if state is not None and state.state == "failed" and self.client.loaded:
            return state.reason
        return self.failed.get(name)

    def failures(self) -> dict[str, str]:
        """The `failure_of` every model that failed, by name."""
        reasons = {name: self.failure_of(name) for name in self.states()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def all_names(self) -> tuple[str, ...]:
        """Every model, in configured order."""
        return self.configured or tuple(self.models)

    def served_names(self) -> list[str]:
        """Models that did not fail, in configured order; includes those still loading."""
        return [name for name in self.all_names() if self.failure_of(name) is None]

    @property
    def default_model(self) -> str:
        """The model used when a request names none, which writes text if any does. Raises
        Unavailable if all failed."""
        return self._defaults("text")[0]

    def _defaults(self, use: Use) -> list[str]:
        """What a request of this use may mean that names no model: one, or several of which it has
        to name its own. Raises Unavailable if all models failed, or the one may still be loading.
        """
        name = self.settings.default_model
        chosen = [] if name is None else [self.aliases.get(name, name)]
        served = self.served_names()
        if not chosen and not served:
            raise Unavailable("no model could be loaded", code="model_loading")
        for names in (chosen, served):
            if fitting := [name for name in names if self._may_serve(name, use)]:
                return fitting
        if use == "embedding":
            for name in served:
                if name not in self.client.loaded:
                    raise _is_loading(name)
        return (chosen or served)[:1]

    def _may_serve(self, name: str, use: Use) -> bool:
        """Of a model that is still loading: writes it text? Most do."""
        loaded = self.client.loaded.get(name)
        if use == "embedding":
            return loaded is not None and loaded.embedding_size is not None
        return loaded is None or loaded.generates

    def find_model(self, name: str | None, key: Key, use: Use = "text") -> TextModel:
        """The model that a request of this key names; without a name the only one of this use.
        Raises InvalidRequest, ModelNotFound, PermissionDenied, or Unavailable while its text side
        is loading."""
        if name is None:
            name, *others = self._defaults(use)
            if others:
                raise InvalidRequest(
                    "you must name a model", code="missing_required_parameter", param="model",
                    hint=f"known models: {self._known_names(key)}",
                )  # fmt: skip
        given, name = name, self.aliases.get(name, name)
        if self.is_model(name) and not key.may_use(given, name):
            raise PermissionDenied(
                f"your key may not use the model {given[:100]!r}",
                param="model",
                hint=f"it may use: {self._known_names(key)}",
            )
        if reason := self.failure_of(name):
            raise ModelNotFound(
                f"the model {name!r} could not be loaded: {reason[:1000]}", param="model"
            )
        if (adapter := self.adapters.find(name)) is not None:
            return adapter
        if name not in self.models:
            if name in self.configured or self.adapters.is_expected(name):
                raise _is_loading(name)
            raise ModelNotFound(
                f"the model {name[:100]!r} does not exist; known models: {self._known_names(key)}",
                param="model",
            )
        return self.models[name]

    def is_model(self, name: str) -> bool:
        """Is there, or was there to be, a model or adapter of this name?"""
        return (
            name in self.models
            or name in self.configured
            or self.adapters.find(name) is not None
            or self.adapters.is_expected(name)
        )

    def _known_names(self, key: Key) -> str:
        adapters = [adapter.name for adapter in self.adapters.listed()]
        known = [name for name in (*self.served_names(), *adapters) if key.may_use(name)]
        return ", ".join(known[:10])

    def find_loaded(self, name: str) -> LoadedModel:
        """The engine's description of a model, of an adapter its base's. Raises Unavailable while
        it is not ready, ModelNotFound for an adapter that could not be loaded again."""
        name = self.adapters.ready_base(name) or name
        loaded = self.client.loaded.get(name)
        if loaded is None:
            if name not in self.client.states:
                raise ModelNotFound(f"the model {name!r} was unloaded", param="model")
            if self.client.states[name].state != "failed":
                raise _is_loading(name)
            raise Unavailable(
                f"model {name} failed to load", code="model_loading", retry_after_s=2.0
            )
        return loaded

    def remarks(self) -> Iterator[tuple[str, str]]:
        """What of the files of models and adapters is left out, with their names, once the engine
        has loaded them. It is about answers: nothing of a model that writes none."""
        for model in (*self.models.values(), *self.adapters.listed()):
            loaded = self.client.loaded.get(model.base)
            if loaded is None or loaded.generates:
                yield from ((model.name, remark) for remark in model.remarks)

    def fingerprint(self, loaded: LoadedModel, adapter_hash: str = "") -> str:
        """The same fingerprint, request and seed give the same tokens."""
        parts = [loaded.weights_hash, loaded.dtype, loaded.device, loaded.kernels, self.version]
        parts += [adapter_hash] if adapter_hash else []
        digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]
        return f"v{self.version}-{digest}"


def _is_loading(name: str) -> Unavailable:
    return Unavailable(f"model {name} is loading", code="model_loading", retry_after_s=2.0)


def services_of(request: Request) -> Services:
    """The services of the app that handles this request."""
    services: Services = request.app.state.services
    return services


def is_admin(request: Request) -> bool:
    """Did the request come with an admin's key?"""
    return context_of(request.scope).key.role == "admin"
