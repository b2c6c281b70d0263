"""The OpenAPI document: complete, and its examples succeed as they are shown."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_app import Served, serve
from tests.http.building import Gate, serve_script, settle

LINE_ENDS = "one\u2028two\u2029three\u0085four"


def bodies(document: dict[str, Any]) -> dict[str, Any]:
    """path -> JSON body of its POST, of every route but admin's."""
    return {
        path: operations["post"]["requestBody"]["content"]["application/json"]
        for path, operations in document["paths"].items()
        if "requestBody" in operations.get("post", {}) and not path.startswith("/admin")
    }


async def test_every_body_has_an_example_that_succeeds(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b"), encoders=("vectors",)) as served:
        document = (await served.client.get("/openapi.json")).json()
        found = bodies(document)
        assert len(found) >= 4
        for path, body in found.items():
            response = await served.client.post(path, json=body["example"])
            assert response.status_code == 200, (path, response.text)
            assert "x-ignored-params" not in response.headers, path


async def test_every_error_of_a_route_is_documented(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        document = (await served.client.get("/openapi.json")).json()
        for path in bodies(document):
            statuses = document["paths"][path]["post"]["responses"].keys()
            assert statuses >= {"200", "400", "401", "403", "413", "415"}, path
        assert "404" in document["paths"]["/v1/models/{model_id}"]["get"]["responses"]
        assert "503" in document["paths"]["/readyz"]["get"]["responses"]
        metrics = document["paths"]["/metrics"]["get"]["responses"]["200"]
        assert metrics["content"].keys() == {"text/plain"}
        assert document["components"]["schemas"]["Error"]["required"] == ["error"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/health/live", "/health/ready"])
async def test_probes_take_head(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.head(path)
        assert response.status_code == 200


def say_line_ends(prompt: list[int], sampling: Any) -> list[int]:
    return list(LINE_ENDS.encode())


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
async def test_no_line_end_of_unicode_leaves_raw(tmp_path: Path, route: str) -> None:
    body: dict[str, Any] = {"max_tokens": 40}
    if route == "completions":
        body["prompt"] = "x"
    else:
        body["messages"] = [{"role": "user", "content": LINE_ENDS}]
    async with serve_script(tmp_path, say_line_ends) as (served, _):
        whole = await served.client.post(f"/v1/{route}", json=body)
        choice = whole.json()["choices"][0]
        assert choice.get("text", choice.get("message", {}).get("content")) == LINE_ENDS
        assert len(whole.text.splitlines()) == 1
        stream = await served.client.post(f"/v1/{route}", json={**body, "stream": True})
        lines = [line for line in stream.text.splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)
        refused = await served.client.post(f"/v1/{route}", json={**body, "model": LINE_ENDS})
        assert refused.status_code == 404
        assert len(refused.text.splitlines()) == 1


async def test_the_load_is_right_after_a_cancel(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        gate = Gate(served)
        body = {"prompt": "x", "max_tokens": 500}
        request = asyncio.create_task(served.client.post("/v1/completions", json=body))
        await settle()
        await gate.allow(3)
        assert (await load_of(served))["running"] == 1
        request.cancel()
        await settle()
        assert (await load_of(served)) | {"tokens_per_second": 0} == {
            "running": 0, "waiting": 0, "kv_used": 0, "tokens_per_second": 0,
        }  # fmt: skip


async def load_of(served: Served) -> dict[str, float]:
    answer = (await served.client.get("/load")).json()
    load: dict[str, float] = answer["models"]["tiny"]
    return load
