"""`openai_client`: the official client with our settings."""

import sys
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

from shoal.client import Timeouts
from shoal.client.testing import MockServer
from tests.client.both import Sdk, both
from tests.client.loopback import Connection, serving_on

openai = pytest.importorskip("openai", reason="the openai package is not installed")
OPENAI_LIBRARY = httpx2 if issubclass(openai.DefaultHttpxClient, httpx2.Client) else httpx
OTHER_LIBRARY = httpx if OPENAI_LIBRARY is httpx2 else httpx2


@both
async def test_it_has_the_same_settings(sdk: Sdk) -> None:
    client = sdk.client_type(
        base_url="http://h.test/v1/", api_key="k", max_retries=4,
        timeout=Timeouts(connect_s=2.0, total_s=50.0), default_headers={"X-A": "1", "X-B": None},
    )  # fmt: skip
    official = client.openai_client()
    assert isinstance(official, openai.AsyncOpenAI if sdk.is_async else openai.OpenAI)
    assert str(official.base_url) == "http://h.test/v1/"
    assert (official.api_key, official.max_retries) == ("k", 4)
    assert (official.timeout.connect, official.timeout.read) == (2.0, 50.0)
    assert official.default_headers["X-A"] == "1"
    for timeout, read in ((Timeouts(10), 10), (None, None), (Timeouts(20, total_s=9), 9)):
        other = client.with_options(timeout=timeout).openai_client()
        assert other.timeout.read == read


@both
async def test_it_calls_through_the_http_client_that_was_given(sdk: Sdk) -> None:
    server = MockServer()
    server.chat("Hi!")
    http_client = sdk.http_client(OPENAI_LIBRARY, transport=server)
    official = sdk.client(server, http_client=http_client).openai_client()
    answer = await sdk.do(
        official.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    )
    assert answer.choices[0].message.content == "Hi!"
    assert server.requests[0].path == "/v1/chat/completions"


@both
async def test_an_http_client_of_another_library_is_refused(sdk: Sdk) -> None:
    client = sdk.client_type(http_client=sdk.http_client(OTHER_LIBRARY))
    with pytest.raises(TypeError, match=f"works with {OPENAI_LIBRARY.__name__}"):
        client.openai_client()


@both
async def test_it_calls_through_the_unix_socket(sdk: Sdk, tmp_path: Path) -> None:
    def script(connection: Connection) -> None:
        assert b"GET /v1/models" in connection.read_request()
        connection.send_json(b'{"object":"list","data":[{"id":"m","object":"model"}]}')
        connection.wait_until_closed()

    path = tmp_path / "s"
    with serving_on(path, script):
        official = sdk.client_type(uds=str(path)).openai_client()
        models = await sdk.do(official.models.list())
        assert models.data[0].id == "m"
        await sdk.do(official.close())


@both
async def test_without_the_package_the_error_says_what_to_install(
    sdk: Sdk, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules: dict[str, Any] = {"openai": None}  # None makes the import fail
    monkeypatch.setitem(sys.modules, "openai", modules["openai"])
    with pytest.raises(ImportError, match="pip install openai"):
        sdk.client_type().openai_client()
