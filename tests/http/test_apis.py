"""What holds for the routes of every API alike: keys, capacity, metrics, answers, pings, ends."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.config import Settings
from tests.fakes.http_app import serve
from tests.http.building import AsgiCall, Gate, serve_script, settle, until

HI = [{"role": "user", "content": "Hi"}]
OPTIONS = {"seed": 5, "temperature": 1, "top_p": 0.9}
OLLAMA = {"model": "tiny", "options": {"num_predict": 12, **OPTIONS}}
CHATS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 12, "stream": False, **OPTIONS},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 12, "stream": False, **OPTIONS},
    "/v1/messages": {"messages": HI, "max_tokens": 12, "stream": False, **OPTIONS},
    "/api/chat": {"messages": HI, "stream": False, **OLLAMA},
    "/api/generate": {"prompt": "Hi", "stream": False, **OLLAMA},
}
GENERATE = {"inputs": "Hi", "parameters": {"max_new_tokens": 12, **OPTIONS}, "stream": False}
CONTINUATIONS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi", "max_tokens": 12, "stream": False, **OPTIONS},
    "/generate": GENERATE,
    "/": GENERATE,
    "/api/generate": {"prompt": "Hi", "raw": True, "stream": False, **OLLAMA},
}
ROUTES = {**CHATS, "/generate": GENERATE}
APIS = {
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "tgi": "/generate",
    "ollama": "/api/chat",
}


def text_of(answer: Any) -> str:
    """The text of a plain answer of any API."""
    if isinstance(answer, list):
        answer = answer[0]
    match answer:
        case {"choices": [{"message": {"content": str(text)}}]} | {
            "choices": [{"text": str(text)}]
        }:
            return text
        case {"output": [{"content": [{"text": str(text)}]}]} | {"content": [{"text": str(text)}]}:
            return text
        case {"message": {"content": str(text)}} | {"response": str(text)}:
            return text
        case {"generated_text": str(text)}:
            return text
    raise AssertionError(answer)


def message_of(response: httpx.Response) -> str:
    """The message of an error of any API."""
    error = response.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize("routes", [CHATS, CONTINUATIONS], ids=["chats", "continuations"])
async def test_the_same_request_gets_the_same_text_from_every_api(
    tmp_path: Path, routes: dict[str, dict[str, Any]]
) -> None:
    async with serve(tmp_path) as served:
        calls = [served.client.post(path, json=body) for path, body in routes.items()]
        together = [text_of(answer.json()) for answer in await asyncio.gather(*calls)]
        alone = [
            text_of((await served.client.post(path, json=body)).json())
            for path, body in routes.items()
        ]
    assert len(set(together + alone)) == 1
    assert together[0]


@pytest.mark.parametrize("path", ROUTES)
async def test_a_key_is_needed_and_its_tenant_has_its_limit(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path, api_keys=["me:secret"], tenant_max_queue=1) as served:
        client, gate = served.client, Gate(served)
        assert (await client.post(path, json=ROUTES[path])).status_code == 401
        client.headers["authorization"] = "Bearer secret"
        first = asyncio.create_task(client.post(path, json=ROUTES[path]))
        await settle()
        second = await client.post(path, json=ROUTES[path])
        assert second.status_code == 429
        assert second.headers["retry-after"]
        assert message_of(second)
        await gate.open()
        assert (await first).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert f'model="tiny",route="{path}",status="200"' in metrics
    assert f'model="tiny",route="{path}",status="429"' in metrics


@pytest.mark.parametrize("path", ROUTES)
async def test_a_full_or_draining_server_says_so_before_a_stream_begins(
    tmp_path: Path, path: str
) -> None:
    body = {**ROUTES[path], "stream": True}
    async with serve(tmp_path, max_batch_size=1, max_queue=0) as served:
        gate = Gate(served)
        first = asyncio.create_task(served.client.post(path, json=body))
        await settle()
        second = await served.client.post(path, json=body)
        assert (second.status_code, bool(message_of(second))) == (503, True)
        assert second.headers["retry-after"]
        await gate.open()
        assert (await first).status_code == 200
        served.services.draining = True
        assert (await served.client.post(path, json=body)).status_code == 503


PINGS = {
    "/v1/chat/completions": b": ping\n\n",
    "/v1/responses": b": ping\n\n",
    "/v1/messages": b'event: ping\ndata: {"type":"ping"}\n\n',
    "/generate": b": ping\n\n",
    "/api/chat": b'"message":{"role":"assistant","content":""}}\n',
    "/api/generate": b'"done":false,"response":""}\n',
}


@pytest.mark.parametrize("path", ROUTES)
async def test_silence_is_broken_by_what_its_clients_ignore(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path, keepalive_interval=0.02) as served:
        gate = Gate(served)
        call = AsgiCall(served, path, {**ROUTES[path], "stream": True})
        await gate.allow(3)
        await until(lambda: call.pieces and call.pieces[-1].endswith(PINGS[path]))
        await gate.open()
        await call.task
    assert call.answer.status == 200
    assert call.answer.ended


@pytest.mark.parametrize("path", ROUTES)
async def test_a_client_that_leaves_frees_its_sequence(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        gate = Gate(served)
        call = AsgiCall(served, path, {**ROUTES[path], "stream": True})
        await gate.allow(3)
        assert call.pieces
        call.disconnect()
        await call.task
        await gate.allow(2)
        assert served.services.client.stats["tiny"].num_running == 0
        assert not served.services.open_requests


@pytest.mark.parametrize("path", ROUTES)
async def test_no_line_end_of_unicode_leaves_raw(tmp_path: Path, path: str) -> None:
    text = "one\u2028two\u0085three"
    body = json.loads(json.dumps(ROUTES[path]).replace("12", "40"))
    async with serve_script(tmp_path, text) as (served, _):
        whole = await served.client.post(path, json=body)
        assert text_of(whole.json()) == text
        stream = await served.client.post(path, json={**body, "stream": True})
    assert len(whole.text.splitlines()) == 1
    for line in stream.text.splitlines():
        assert line == "" or line.startswith(("data: ", "event: ", "{"))


async def test_apis_can_be_switched_off(tmp_path: Path) -> None:
    for name, path in APIS.items():
        async with serve(tmp_path, apis=[name]) as served:
            for other in APIS.values():
                status = (await served.client.post(other, json=ROUTES[other])).status_code
                assert status == (200 if other == path else 404), (name, other)
            document = (await served.client.get("/openapi.json")).json()
            assert [each for each in APIS.values() if each in document["paths"]] == [path]
            assert (await served.client.get("/v1/models")).status_code == 200


def test_apis_are_named_by_a_list_or_a_text_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(Settings().apis) == list(APIS)
    monkeypatch.setenv("SHOAL_APIS", "openai, ollama")
    assert Settings().apis == ["openai", "ollama"]
    with pytest.raises(ValueError, match="apis"):
        Settings(apis=["gopher"])


async def test_errors_are_documented_in_the_shape_of_each_api(tmp_path: Path) -> None:
    names = {"/v1/messages": "AnthropicError", "/generate": "TGIError", "/": "TGIError",
             "/api/chat": "OllamaError", "/api/tags": "OllamaError"}  # fmt: skip
    async with serve(tmp_path) as served:
        document = (await served.client.get("/openapi.json")).json()
        answers = {path: await served.client.post(path, json={}) for path in ROUTES}
    for path, answer in answers.items():
        name = names.get(path, "OllamaError" if path.startswith("/api/") else "Error")
        responses = document["paths"][path]["post"]["responses"]
        for status in ("400", "401", "404", "415", "429", "503"):
            content = responses[status]["content"]["application/json"]
            assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
        assert answer.status_code == 400
        assert answer.json().keys() == document["components"]["schemas"][name]["properties"].keys()


async def test_a_default_model_answers_where_the_request_names_none(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b"), default_model="b") as served:
        for path in ("/v1/responses", "/v1/messages", "/generate"):
            response = await served.client.post(path, json=ROUTES[path])
            assert response.status_code == 200
            assert response.json().get("model", "b") == "b"
