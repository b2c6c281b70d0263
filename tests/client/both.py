"""Runs one test with the sync and the async client: every case is written once.

A test takes `sdk`, builds a client with it, and awaits everything through `sdk`.
"""

import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import httpx
import pytest

from shoal.client import AsyncClient, Client, Timeouts
from shoal.client.testing import MockServer

MESSAGES = [{"role": "user", "content": "Hi"}]


@dataclass(frozen=True)
class Sdk:
    """One of the two clients, under names that suit both. Any: each value is of either kind."""

    is_async: bool

    @property
    def client_type(self) -> Any:
        return AsyncClient if self.is_async else Client

    def http_client(self, library: ModuleType = httpx, **settings: Any) -> Any:
        return (library.AsyncClient if self.is_async else library.Client)(**settings)

    def client(self, server: MockServer, **settings: Any) -> Any:
        return server.async_client(**settings) if self.is_async else server.client(**settings)

    async def do(self, value: Any) -> Any:
        """The value of a call, awaited where there is something to await."""
        return await value if inspect.isawaitable(value) else value

    async def each(self, items: Any) -> AsyncIterator[Any]:
        """Iterates either kind of iterable."""
        if hasattr(items, "__aiter__"):
            async for item in items:
                yield item
        else:
            for item in items:
                yield item

    async def next(self, items: Any) -> Any:
        return await anext(items) if self.is_async else next(items)

    async def all(self, items: Any) -> list[Any]:
        return [item async for item in self.each(items)]


both = pytest.mark.parametrize(
    "sdk", [Sdk(is_async=False), Sdk(is_async=True)], ids=["sync", "async"]
)


async def open_stream(
    sdk: Sdk, *parts: Any, chat: bool = False, limits: Timeouts | None = None, **fields: Any
) -> Any:
    """A stream of these parts, just opened."""
    server = MockServer()
    server.stream(*parts)
    client = sdk.client(server, timeout=limits or Timeouts())
    if chat:
        return await sdk.do(client.chat.create(MESSAGES, stream=True, **fields))
    fields = {"prompt": "The sky is", **fields}
    return await sdk.do(client.completions.create(stream=True, **fields))
