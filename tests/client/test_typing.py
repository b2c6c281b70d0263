"""Types as a checker sees them. mypy reads this file; running it checks the same by hand."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import httpx2

from shoal import AsyncClient, Client
from shoal.client import (
    AsyncStream,
    ChatChunk,
    ChatCompletion,
    Completion,
    CompletionChunk,
    Error,
    ParsedChatCompletion,
    Stream,
    ToolRun,
    tool,
)
from shoal.client.testing import MockServer

if TYPE_CHECKING:
    from typing import assert_type


@dataclass
class Point:
    x: int


@tool
def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


def _sync_types(client: Client) -> None:
    messages = [{"role": "user", "content": "x"}]
    assert_type(client.completions.create("x", max_tokens=1), Completion)
    assert_type(client.completions.create("x", stream=True), Stream[CompletionChunk, Completion])
    assert_type(client.chat.create(messages), ChatCompletion)
    assert_type(client.chat.create(messages, stream=True), Stream[ChatChunk, ChatCompletion])
    assert_type(client.completions.create("x", stream=True).final(), Completion)
    assert_type(client.generate_many(["x"]), list[Completion])
    assert_type(client.generate_many(["x"], keep_errors=True), list[Completion | Error])
    assert_type(client.with_raw_response.completions.create("x", top_k=1), httpx.Response)
    assert_type(client.chat.parse(messages, Point), ParsedChatCompletion[Point])
    assert_type(client.chat.parse(messages, response_format=Point).parsed, Point)
    assert_type(client.completions.parse("x", list[int]).parsed, list[int])
    assert_type(client.completions.parse("x", Point, stream=True).final().parsed, Point)
    assert_type(client.chat.run_tools(messages, tools=[add, len]), ToolRun)
    assert_type(add(1, b=2), int)
    assert_type([model.id for model in client.models.list()], list[str])
    client.chat.create([client.chat.create(messages).message], tools=[add], timeout=None)
    Client("http://h", timeout=httpx.Timeout(3))
    Client(timeout=httpx2.Timeout(3)).with_options(timeout=None)
    add("1")  # type: ignore[arg-type]
    client.completions.create("x", max_tokens="1")  # type: ignore[call-overload]
    client.completions.create("x", colour="blue")  # type: ignore[call-overload]
    client.models.list(colour="blue")  # type: ignore[call-arg]
    client.with_raw_response.tokenize("x", colour="blue")  # type: ignore[call-arg]


async def _async_types(client: AsyncClient) -> None:
    stream = await client.completions.create("x", stream=True)
    assert_type(stream, AsyncStream[CompletionChunk, Completion])
    assert_type(await client.chat.create([]), ChatCompletion)
    assert_type(await client.generate_many(["x"]), list[Completion])
    assert_type(await client.with_raw_response.models.list(), httpx.Response)


def test_clients_of_both_libraries_fit_the_declared_type() -> None:
    server = MockServer()
    transport: Any = server  # made for httpx; httpx2 asks for nothing it does not have
    clients = [
        Client(http_client=httpx.Client(transport=server)),
        Client(http_client=httpx2.Client(transport=transport)),
    ]
    for client in clients:
        server.completion("a")
        assert isinstance(client.completions.create("x"), Completion)
    assert AsyncClient(http_client=httpx2.AsyncClient(transport=transport)) is not None
    assert AsyncClient(http_client=httpx.AsyncClient(transport=server)) is not None
