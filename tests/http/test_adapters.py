"""Adapters over HTTP: chosen by `model`, listed with their parent, loaded and unloaded by an admin
while others are served."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_app import Served, serve
from tests.fakes.tiny_adapters import write_adapter
from tests.fakes.tiny_models import write_tiny_llama
from tests.http.building import Gate, refused, settle

ADMIN = {"Authorization": "Bearer secret"}
KEYS: dict[str, Any] = {"admin_keys": ["root:secret"]}


def adapter(folder: Path, name: str = "adapter") -> Path:
    base = folder / "weights"
    if not base.exists():
        write_tiny_llama(base)
    return write_adapter(folder / name, base, base_model_name_or_path="somewhere/tiny")


async def post(served: Served, what: str, headers: Any = ADMIN, **body: Any) -> Any:
    return await served.client.post(f"/admin/lora/{what}", json=body, headers=headers)


async def text(served: Served, model: str) -> str:
    response = await served.complete("Once upon a time", model=model, max_tokens=8, temperature=0)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    answer: str = response.json()["choices"][0]["text"]
    return answer


async def test_an_adapter_is_loaded_used_listed_and_unloaded(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    async with serve(tmp_path, **KEYS) as served:
        plain = await text(served, "tiny")
        answer = await post(served, "load", name="tales", path=str(folder))
        assert answer.status_code == 200, answer.text
        assert await text(served, "tales") != plain
        assert await text(served, "tiny") == plain
        listed = (await served.client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["root"], model["parent"]) for model in listed] == [
            ("tiny", "tiny", None),
            ("tales", "tiny", "tiny"),
        ]
        one = (await served.client.get("/v1/models/tales")).json()
        assert one == listed[1] == answer.json()
        assert (one["rank"], one["num_parameters"], one["ready"]) == (8, 1234, True)
        chat = await served.chat(model="tales", max_tokens=3)
        assert chat.json()["model"] == "tales"
        unnamed = await served.complete(max_tokens=2)  # an adapter is no second model to choose
        assert unnamed.json()["model"] == "tiny"
        assert one["max_model_len"] == listed[0]["max_model_len"]

        assert (await post(served, "unload", name="tales")).json() == {
            "id": "tales", "object": "model", "unloaded": True}  # fmt: skip
        gone = await served.complete(model="tales")
        refused(gone, 404, "model_not_found", param="model")
        assert len((await served.client.get("/v1/models")).json()["data"]) == 1
        refused(await post(served, "unload", name="tales"), 404, "model_not_found", param="name")


async def test_readiness_waits_for_the_adapters_that_the_engine_loads_at_its_start(
    tmp_path: Path,
) -> None:
    async with serve(tmp_path, **KEYS) as served:
        await post(served, "load", name="later", path=str(adapter(tmp_path)))
        table = served.services.client._adapters.ready
        (adapter_id,) = table
        loaded = table.pop(adapter_id)
        assert (await served.client.get("/readyz")).status_code == 200  # came while serving
        served.services.adapters._first_ids = frozenset({adapter_id})
        answer = await served.client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "loading")
        refused(await served.complete(model="later"), 503, "model_loading")
        table[adapter_id] = loaded
        assert (await served.client.get("/readyz")).status_code == 200


async def test_fingerprint_and_metrics_are_the_adapters_own(tmp_path: Path) -> None:
    async with serve(tmp_path, **KEYS) as served:
        for name in ("a", "b"):
            await post(served, "load", name=name, path=str(adapter(tmp_path, name)))
        (tmp_path / "b" / "adapter_config.json").write_bytes(
            (tmp_path / "b" / "adapter_config.json").read_bytes() + b"\n"
        )
        await post(served, "load", name="c", path=str(tmp_path / "b"))
        prints = []
        for name in ("tiny", "a", "b", "c"):
            answer = await served.complete(model=name, max_tokens=2)
            prints.append(answer.json()["system_fingerprint"])
        assert prints[1] == prints[2]  # the same files under two names
        assert len(set(prints)) == 3
        metrics = (await served.client.get("/metrics")).text
        for name in ("tiny", "a", "b"):
            assert f'shoal_requests_total{{model="{name}",route="/v1/completions"' in metrics
            assert f'shoal_prompt_tokens_total{{model="{name}"}}' in metrics


async def test_an_unload_waits_for_what_runs_and_a_new_name_may_follow(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    async with serve(tmp_path, **KEYS) as served:
        await post(served, "load", name="tales", path=str(folder))
        expected = await text(served, "tales")
        gate = Gate(served)
        running = asyncio.create_task(text(served, "tales"))
        await settle()
        await gate.allow(2)
        unloading = asyncio.create_task(post(served, "unload", name="tales"))
        await settle(50)
        refused(await served.complete(model="tales"), 404, "model_not_found", param="model")
        assert not unloading.done()
        await gate.open()
        assert await running == expected
        assert (await unloading).status_code == 200
        await post(served, "load", name="tales", path=str(folder))
        again = await served.complete("Once upon a time", model="tales", max_tokens=8)
        assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_what_an_admin_gets_wrong_is_said(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    broken = write_adapter(tmp_path / "broken", tmp_path / "weights")
    async with serve(tmp_path, names=("tiny", "large"), **KEYS) as served:
        load = {"name": "tales", "path": str(folder)}
        assert (await post(served, "load", **load)).status_code == 200
        refused(await post(served, "load", **load), 400, "model_exists", param="name")
        taken = await post(served, "load", **{**load, "name": "large"})
        refused(taken, 400, "model_exists", param="name")
        for body, words in (
            ({"name": "x", "path": str(tmp_path / "none")}, "is no adapter: give a folder"),
            ({"name": "x", "path": str(tmp_path / "tiny")}, "is no adapter"),
            ({"name": "x", "path": str(broken)}, "which is none of tiny, large: name its base"),
            ({"name": "x", "path": str(folder), "model": "huge"}, "none of tiny, large"),
            ({"name": "x", "path": str(broken), "model": "tiny"}, "belongs to another base"),
        ):
            response = await post(served, "load", **body)
            refused(response, 400, "invalid_value", param="path")
            assert words in response.json()["error"]["message"]
        missing = await post(served, "load", name="x")
        refused(missing, 400, "missing_required_parameter", param="path")
        unknown = await post(served, "load", **{**load, "name": "y"}, force=True)
        assert unknown.status_code == 400
        refused(await served.complete(model="x"), 404, "model_not_found", param="model")
        assert "known models: tiny, large, tales" in (await served.complete(model="x")).text


@pytest.mark.parametrize("settings", [{}, {"api_keys": ["ann:key-a"]}])
async def test_without_an_admin_key_there_are_no_such_routes(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    async with serve(tmp_path, **settings) as served:
        for what in ("load", "unload"):
            key = {"Authorization": "Bearer key-a"}
            refused(await post(served, what, key, name="x", path="y"), 404, "unknown_url")
        assert not any("/admin" in path for path in served.app.openapi()["paths"])


async def test_admin_routes_take_admin_keys_only(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=["ann:key-a"], **KEYS) as served:
        refused(await post(served, "unload", {}, name="x"), 401, "invalid_api_key")
        user = {"Authorization": "Bearer key-a"}
        denied = await post(served, "unload", user, name="x")
        refused(denied, 403, "insufficient_permissions")
        refused(await post(served, "unload", name="x"), 404, "model_not_found", param="name")
        models = await served.client.get("/v1/models", headers=ADMIN)
        assert models.status_code == 401  # an admin key opens nothing else
        paths = served.app.openapi()["paths"]
        assert {"/admin/lora/load", "/admin/lora/unload"} <= set(paths)


async def test_adapters_share_the_capacity_of_their_base(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    limits = {"max_batch_size": 2, "max_queue": 0}
    async with serve(tmp_path, **KEYS, **limits) as served:
        await post(served, "load", name="tales", path=str(folder))
        gate = Gate(served)
        running = [asyncio.create_task(text(served, name)) for name in ("tiny", "tales")]
        await settle()
        for name in ("tiny", "tales"):
            refused(await served.complete(model=name), 503, "server_is_overloaded")
        await gate.open()
        await asyncio.gather(*running)
