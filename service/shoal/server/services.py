"""The parts a route needs, built once at start and handed to the app."""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from fastapi import Request

from shoal.bridge.engine_client import EngineClient
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
    version: str = field(default_factory=shoal_version)
    draining: bool = False
    open_requests: set["asyncio.Task[object]"] = field(default_factory=set)
    """Tasks of running generations, for the drain at shutdown."""
    loop_beat: float = field(default_factory=time.monotonic)
    """When the event loop last showed that it runs."""

    @property
    def default_model(self) -> str:
        return self.settings.default_model or next(iter(self.models))

    def find_model(self, name: str | None) -> TextModel:
        """The model a request names. Raises InvalidRequest or ModelNotFound."""
        if name is None:
            if self.settings.default_model is None and len(self.models) > 1:
                raise InvalidRequest(
                    "you must name a model", code="missing_required_parameter", param="model",
                    hint=f"known models: {', '.join(list(self.models)[:10])}",
                )  # fmt: skip
            name = self.default_model
        if name not in self.models:
            known = ", ".join(list(self.models)[:10])
            raise ModelNotFound(
                f"the model {name[:100]!r} does not exist; known models: {known}", param="model"
            )
        return self.models[name]

    def find_loaded(self, name: str) -> LoadedModel:
        """What the engine says of a known model. Raises Unavailable while it is not ready."""
        loaded = self.client.loaded.get(name)
        if loaded is None:
            state = self.client.states[name]
            reason = "failed to load" if state.state == "failed" else "is loading"
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
