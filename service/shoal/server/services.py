"""The parts a route needs, built once at start and handed to the app."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from fastapi import Request

from shoal.bridge.engine_client import EngineClient, ModelState
from shoal.config import Settings
from shoal.errors import InvalidRequest, ModelNotFound, Unavailable
from shoal.metrics import Metrics
from shoal.protocol.messages import LoadedModel
from shoal.server.admission import Admission
from shoal.server.auth import KeyRing
from shoal.text.text_model import TextModel


def shutting_down() -> Unavailable:
    """The answer to new work while the server drains."""
    return Unavailable("the server is shutting down", code="shutting_down", retry_after_s=5.0)


def shoal_version() -> str:
    try:
        return version("shoal")
    except PackageNotFoundError:  # run from a source tree
        return "0.0.0"


@dataclass(slots=True)
class Services:
    """Everything behind the routes."""

    settings: Settings
    client: EngineClient
    models: dict[str, TextModel]
    admission: Admission
    keys: KeyRing
    metrics: Metrics
    failed: dict[str, str] = field(default_factory=dict)
    """Models of models_dir whose text side cannot be used, with the reason."""
    version: str = field(default_factory=shoal_version)
    draining: bool = False
    open_requests: set["asyncio.Task[object]"] = field(default_factory=set)
    """Tasks of running generations, for the drain at shutdown."""
    loop_beat: float = field(default_factory=time.monotonic)
    """When the event loop last showed that it runs."""

    def states(self) -> dict[str, ModelState]:
        """Every model that was found: the engine's word, unless the text side failed."""
        failed = {name: ModelState("failed", reason=reason) for name, reason in self.failed.items()}
        return {**self.client.states, **failed}

    def failure_of(self, name: str) -> str | None:
        """Why a model cannot be served, while others are; None for one that can, or will be."""
        state = self.client.states.get(name)
        if state is not None and state.state == "failed" and self.client.loaded:
            return state.reason
        return self.failed.get(name)

    def failures(self) -> dict[str, str]:
        """`failure_of` by name, of every model that has one."""
        reasons = {name: self.failure_of(name) for name in self.states()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def served_models(self) -> list[TextModel]:
        """In the order they were found, those still loading included."""
        return [model for name, model in self.models.items() if self.failure_of(name) is None]

    @property
    def default_model(self) -> str:
        """The model that answers where none is named. Raises Unavailable where all failed."""
        if self.settings.default_model is not None:
            return self.settings.default_model
        if not (served := self.served_models()):
            raise Unavailable("no model could be loaded", code="model_loading")
        return served[0].name

    def find_model(self, name: str | None) -> TextModel:
        """The model a request names. Raises InvalidRequest or ModelNotFound."""
        if name is None:
            if self.settings.default_model is None and len(self.served_models()) > 1:
                raise InvalidRequest(
                    "you must name a model", code="missing_required_parameter", param="model",
                    hint=f"known models: {self._known_names()}",
                )  # fmt: skip
            name = self.default_model
        if reason := self.failure_of(name):
            raise ModelNotFound(
                f"the model {name!r} could not be loaded: {reason[:1000]}", param="model"
            )
        if name not in self.models:
            raise ModelNotFound(
                f"the model {name[:100]!r} does not exist; known models: {self._known_names()}",
                param="model",
            )
        return self.models[name]

    def _known_names(self) -> str:
        return ", ".join([model.name for model in self.served_models()][:10])

    def find_loaded(self, name: str) -> LoadedModel:
        """What the engine says of a known model. Raises Unavailable while it is not ready."""
        loaded = self.client.loaded.get(name)
        if loaded is None:
            failed = self.client.states[name].state == "failed"
            reason = "failed to load" if failed else "is loading"
            raise Unavailable(f"model {name} {reason}", code="model_loading", retry_after_s=2.0)
        return loaded

    def fingerprint(self, loaded: LoadedModel) -> str:
        """Equal fingerprint, request and seed give equal tokens."""
        parts = (loaded.weights_hash, loaded.dtype, loaded.device, loaded.kernels, self.version)
        digest = hashlib.sha256("/".join(parts).encode()).hexdigest()[:8]
        return f"v{self.version}-{digest}"


def services_of(request: Request) -> Services:
    """The parts of the app that serves this request."""
    services: Services = request.app.state.services
    return services
