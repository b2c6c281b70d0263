"""Settings of a client: where they come from, what copies keep, what never shows."""

import inspect
import logging
import os
import traceback
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from shoal.client import AsyncClient, Client, ConnectionFailed, StatusError, Timeouts
from shoal.client import _routes as routes
from shoal.client._async.admin import AsyncAdapters, AsyncAdmin, AsyncCache, AsyncServedModels
from shoal.client._async.driver import AsyncClientOptions
from shoal.client._async.endpoints import (
    AsyncChat,
    AsyncCompletions,
    AsyncEmbeddings,
    AsyncModels,
)
from shoal.client._async.stream import AsyncStream
from shoal.client._exchange import Exchange
from shoal.client._sync.admin import Adapters, Admin, Cache, ServedModels
from shoal.client._sync.driver import ClientOptions
from shoal.client._sync.endpoints import Chat, Completions, Embeddings, Models
from shoal.client._sync.stream import Stream
from shoal.client.testing import FakeClock, Fault, MockServer, json_reply
from tests.client.both import Sdk, both

KEY = "sk-very-secret-7261"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"SHOAL_{name}", raising=False)
        monkeypatch.delenv(f"OPENAI_{name}", raising=False)


async def first_request(sdk: Sdk, server: MockServer, **settings: Any) -> Any:
    """The request that a client with these settings makes, and where it goes."""
    hosts: list[str] = []

    def note_host(request: Any) -> None:
        hosts.append(str(request.url))

    async def note_host_async(request: Any) -> None:
        note_host(request)

    hook = note_host_async if sdk.is_async else note_host
    http_client = sdk.http_client(transport=server, event_hooks={"request": [hook]})
    server.reply({"status": "ok"})
    await sdk.do(sdk.client(server, http_client=http_client, **settings).health())
    return hosts[-1], server.requests[-1].headers.get("authorization")


@both
async def test_settings_come_from_arguments_then_shoal_then_openai_then_defaults(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MockServer()
    assert await first_request(sdk, server) == ("http://127.0.0.1:8000/health", None)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai.test/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    assert await first_request(sdk, server) == ("http://openai.test/health", "Bearer openai-key")
    monkeypatch.setenv("SHOAL_BASE_URL", "http://shoal.test/")
    monkeypatch.setenv("SHOAL_API_KEY", "shoal-key")
    assert await first_request(sdk, server) == ("http://shoal.test/health", "Bearer shoal-key")
    assert await first_request(sdk, server, base_url="http://mine.test", api_key="my-key") == (
        "http://mine.test/health",
        "Bearer my-key",
    )


@both
async def test_empty_settings_of_the_environment_are_none(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOAL_BASE_URL", "SHOAL_API_KEY"):
        monkeypatch.setenv(name, "")
    assert await first_request(sdk, MockServer()) == ("http://127.0.0.1:8000/health", None)


@both
@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://h:1", "http://h:1/v1/models"),
        ("http://h:1/", "http://h:1/v1/models"),
        ("http://h:1/v1", "http://h:1/v1/models"),
        ("http://h:1/v1/", "http://h:1/v1/models"),
        ("https://h/shoal", "https://h/shoal/v1/models"),
        ("https://h/shoal/v1/", "https://h/shoal/v1/models"),
        ("http://[::1]:9", "http://[::1]:9/v1/models"),
    ],
)
async def test_base_urls_with_and_without_v1_are_the_same(
    sdk: Sdk, base_url: str, expected: str
) -> None:
    urls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return httpx.Response(200, json={"object": "list", "data": []})

    http_client = sdk.http_client(transport=httpx.MockTransport(answer))
    client = sdk.client_type(base_url=base_url, http_client=http_client)
    await sdk.do(client.models.list())
    assert urls == [expected]


@both
@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://host"},
        {"base_url": "http://"},
        {"base_url": "http://h:99999"},
        {"base_url": "http://h:x"},
        {"max_retries": -1},
        {"timeout": 0},
        {"timeout": -1.0},
        {"uds": "/tmp/s", "http_client": "given"},
    ],
)
def test_settings_that_cannot_work_are_refused(sdk: Sdk, settings: dict[str, Any]) -> None:
    if "http_client" in settings:
        settings = {**settings, "http_client": sdk.http_client()}
    with pytest.raises(ValueError):
        sdk.client_type(**settings)


@pytest.mark.parametrize("field", ["connect_s", "first_byte_s", "between_data_s", "total_s"])
def test_limits_are_positive_or_none(field: str) -> None:
    Timeouts(**{field: None})
    with pytest.raises(ValueError, match=field):
        Timeouts(**{field: 0.0})


@both
@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_clients_of_both_libraries_are_taken(sdk: Sdk, library: ModuleType) -> None:
    class Own(library.AsyncClient if sdk.is_async else library.Client):  # type: ignore[misc]
        """People subclass them."""

    server = MockServer()
    server.completion("ok")
    server.completion_stream("a", "b")
    server.fail(Fault.CONNECT)
    client = sdk.client(server, http_client=Own(transport=server), max_retries=0)
    assert (await sdk.do(client.completions.create("x"))).text == "ok"
    stream = await sdk.do(client.completions.create("x", stream=True))
    assert (await sdk.do(stream.final())).text == "ab"
    with pytest.raises(ConnectionFailed):
        await sdk.do(client.completions.create("x"))


@both
def test_clients_of_the_wrong_kind_are_refused(sdk: Sdk) -> None:
    other = Sdk(is_async=not sdk.is_async)
    for wrong in (other.http_client(), object(), "http://127.0.0.1"):
        with pytest.raises(TypeError, match="http_client must be an httpx"):
            sdk.client_type(http_client=wrong)


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NO_PROXY", "localhost,127.0.0.1,[::1]"),
        ("HTTP_PROXY", f"http://user:{KEY}@proxy.test:port"),
        ("all_proxy", f"gopher://user:{KEY}@proxy.test"),
        ("ALL_PROXY", f"socks5://user:{KEY}@proxy.test:1080"),
    ],
)
def test_proxy_settings_that_cannot_be_used_are_named_without_their_values(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    for other in list(os.environ):
        if other.lower().endswith("_proxy"):
            monkeypatch.delenv(other)
    monkeypatch.setenv(name, value)
    with pytest.raises(ConnectionFailed, match=rf"proxy settings .* \({name}\)") as caught:
        sdk.client_type(base_url="http://models.test")
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert sdk.client_type(base_url="http://127.0.0.1:8000") is not None  # needs no proxy


@both
def test_with_options_accepts_what_the_constructor_accepts(sdk: Sdk) -> None:
    constructor = set(inspect.signature(sdk.client_type.__init__).parameters) - {"self"}
    options = AsyncClientOptions if sdk.is_async else ClientOptions
    assert set(options.__annotations__) == constructor
    with pytest.raises(TypeError):
        sdk.client_type().with_options(colour="blue")


@both
async def test_a_copy_changes_what_is_given_and_keeps_the_rest(sdk: Sdk) -> None:
    server = MockServer(lambda seen: json_reply({"status": "ok"}))
    client = sdk.client(
        server, base_url="http://a.test", api_key="one", timeout=7.0, max_retries=5,
        default_headers={"X-A": "1"},
    )  # fmt: skip
    changes: dict[str, Any] = {
        "base_url": "http://b.test/v1",
        "api_key": None,
        "timeout": Timeouts(total_s=3.0, connect_s=1.0),
        "max_retries": 0,
        "default_headers": {"X-B": "2"},
        "clock": FakeClock(chance=0.9).as_clock(),
        "uds": "/tmp/shoal-test-socket",
        "http_client": sdk.http_client(transport=server),
    }
    assert set(changes) == set(inspect.signature(sdk.client_type.__init__).parameters) - {"self"}
    before = client._driver.settings
    for name, value in changes.items():
        changed = client.with_options(**{name: value})._driver
        same = {
            field: getattr(changed.settings, field) == getattr(before, field)
            for field in ("base_url", "api_key", "timeouts", "max_retries", "default_headers",
                          "clock")
        }  # fmt: skip
        expected = {"timeout": "timeouts"}.get(name, name)
        assert [field for field, equal in same.items() if not equal] == (
            [expected] if expected in same else []
        )
        shares = changed.connections is client._driver.connections
        assert shares == (name not in ("uds", "http_client"))
    assert client._driver.settings == before


@both
async def test_headers_are_merged_from_the_client_to_the_call(sdk: Sdk) -> None:
    server = MockServer(lambda seen: json_reply({"status": "ok"}))
    client = sdk.client(
        server, api_key="k", default_headers={"X-One": "1", "x-two": "2", "User-Agent": None}
    )
    await sdk.do(client.health(extra_headers={"x-TWO": "3", "Authorization": None}))
    headers = server.requests[-1].headers
    assert (headers["x-one"], headers["x-two"]) == ("1", "3")
    assert "authorization" not in headers
    assert "shoal" not in headers.get("user-agent", "")
    await sdk.do(client.health(extra_headers={"X-Request-Id": "mine"}))
    assert server.requests[-1].headers["x-request-id"] == "mine"


@both
async def test_keys_show_nowhere(sdk: Sdk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = MockServer()
    client = sdk.client(server, api_key=KEY, base_url="http://h.test/v1")
    server.fail(Fault.CONNECT)
    server.error(503, "server_is_overloaded")
    server.error(401, "invalid_api_key", "wrong key", type="authentication_error")
    with pytest.raises(StatusError) as caught:
        await sdk.do(client.completions.create("x"))
    server.completion_stream("a")
    stream = await sdk.do(client.completions.create("x", stream=True))
    server.fail(Fault.READ_TIMEOUT)
    with pytest.raises(Exception) as late:
        await sdk.do(client.health())
    copy = client.with_options(timeout=1.0)
    shown = [repr(thing) for thing in (
        client, copy, client._driver, client._driver.settings, client.completions, stream,
        caught.value, late.value, vars(caught.value),
    )]  # fmt: skip
    call = routes.health(extra_headers={"Authorization": KEY})
    shown += [repr(call), repr(Exchange(call, copy._driver.settings, httpx))]
    shown += [str(caught.value), str(late.value), caplog.text]
    assert "h.test" in repr(client)
    for text in shown:
        assert KEY not in text


@both
def test_a_password_in_the_url_is_refused_without_showing_it(sdk: Sdk) -> None:
    for url in (f"http://user:{KEY}@h.test/v1", f"user:{KEY}@h.test", f"ftp://a:{KEY}@h"):
        with pytest.raises(ValueError) as caught:
            sdk.client_type(base_url=url)
        assert KEY not in str(caught.value)


@both
@pytest.mark.parametrize("key", [f"{KEY}\n", f" {KEY}", f"{KEY}é", f"{KEY}\x00"])
def test_an_impossible_key_is_refused_without_showing_it(sdk: Sdk, key: str) -> None:
    with pytest.raises(ValueError) as caught:
        sdk.client_type(api_key=key)
    assert KEY not in str(caught.value)


@both
async def test_an_impossible_header_is_refused_without_showing_it(sdk: Sdk) -> None:
    client = sdk.client(MockServer())
    with pytest.raises(ValueError, match="X-Token") as caught:
        await sdk.do(client.health(extra_headers={"X-Token": f"{KEY}\r\nX-Other: 1"}))
    assert KEY not in str(caught.value)


@both
async def test_a_number_as_time_limit_is_the_total_and_bounds_the_others(sdk: Sdk) -> None:
    server = MockServer(lambda seen: json_reply({"status": "ok"}))
    client = sdk.client(server, timeout=3.0)
    await sdk.do(client.health())
    assert server.requests[-1].timeout == {"connect": 3.0, "read": 3.0, "write": 3.0, "pool": 3.0}
    await sdk.do(client.health(timeout=100.0))
    assert server.requests[-1].timeout == {
        "connect": 3.0, "read": 3.0, "write": 3.0, "pool": 100.0
    }  # fmt: skip
    await sdk.do(client.health(timeout=Timeouts(None)))
    assert set(server.requests[-1].timeout.values()) == {None}


@both
async def test_the_default_limits_are_those_of_the_contract(sdk: Sdk) -> None:
    assert Timeouts() == Timeouts(
        connect_s=5.0, first_byte_s=60.0, between_data_s=60.0, total_s=600.0, answer_s=None
    )
    server = MockServer(lambda seen: json_reply({"status": "ok"}))
    await sdk.do(sdk.client(server).health())
    assert server.requests[-1].timeout == {
        "connect": 5.0, "read": 60.0, "write": 60.0, "pool": 600.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [(Client, AsyncClient), (Completions, AsyncCompletions), (Chat, AsyncChat),
     (Models, AsyncModels), (Embeddings, AsyncEmbeddings), (Admin, AsyncAdmin),
     (Adapters, AsyncAdapters), (ServedModels, AsyncServedModels), (Cache, AsyncCache),
     (Stream, AsyncStream)],
)  # fmt: skip
def test_both_clients_have_the_same_names_and_arguments(one: type, other: type) -> None:
    def shape(cls: type) -> dict[str, Any]:
        return {
            name: list(inspect.signature(member).parameters) if callable(member) else None
            for name, member in vars(cls).items()
            if not name.startswith("_") or name == "__init__"
        }

    sync, asynchronous = shape(one), shape(other)
    assert sync == asynchronous
    for name in sync:
        assert getattr(one, name).__doc__ == getattr(other, name).__doc__
