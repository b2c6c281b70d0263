# Generated from _async/admin.py by deploy/generate_sync_client.py; to update: make fix
"""`client.admin`: what an administrator's key may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.client import _routes as routes
from shoal.client._results import Done, Model, Unloaded

from .driver import Driver

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from shoal.client._params import Extras


class Admin:
    """`client.admin`: what an administrator's key may do. These calls are not retried."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.lora = Adapters(driver)
        self.models = ServedModels(driver)
        self.cache = Cache(driver)

    def drain(self, drain: bool = True, **extras: Unpack[Extras]) -> Done:
        """The server takes no new work and finishes what it has; `drain(False)` undoes it."""
        return self._driver.run(routes.drain(drain, **extras))


class Adapters:
    """`client.admin.lora`"""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def load(
        self, name: str, path: str, *, model: str | None = None, **extras: Unpack[Extras]
    ) -> Model:
        """Makes a LoRA adapter in a folder of the server usable as the model `name`; `model` is
        its base."""
        return self._driver.run(routes.load_adapter(name, path, model=model, **extras))

    def unload(self, name: str, **extras: Unpack[Extras]) -> Unloaded:
        """Removes an adapter, once its running requests are over."""
        return self._driver.run(routes.unload_adapter(name, **extras))


class ServedModels:
    """`client.admin.models`"""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def load(self, name: str, path: str, **extras: Unpack[Extras]) -> Model:
        """Starts loading a model from a path on the server; `models.retrieve(name).ready` tells
        when it can be used. Raises Conflict if there is one of this name."""
        return self._driver.run(routes.load_model(name, path, **extras))

    def unload(self, name: str, *, drain: bool | None = None, **extras: Unpack[Extras]) -> Unloaded:
        """Removes a model and frees its memory. Raises Conflict while requests use it, unless
        `drain` waits for them."""
        return self._driver.run(routes.unload_model(name, drain=drain, **extras))


class Cache:
    """`client.admin.cache`"""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def reset(self, *, model: str | None = None, **extras: Unpack[Extras]) -> Done:
        """Forgets the cached prompts of a model, or of all."""
        return self._driver.run(routes.reset_cache(model=model, **extras))
