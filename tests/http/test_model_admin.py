"""Models that come and go, caches that are emptied, a server that takes no new work."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shoal.errors import ModelFolderError
from shoal.protocol.messages import ModelSource
from shoal.protocol.step import LoadedRunner
from tests.fakes.fake_runner import FakeRunner, loaded_model
from tests.fakes.http_app import BLOCK_SIZE
from tests.fakes.text_folder import VOCAB_SIZE, write_text_folder
from tests.http.building import AsgiCall, Gate, Served, nothing_left, refused, serve_script, settle

ADMIN = {"authorization": "Bearer r"}


class Loader:
    """Stands for the engine's loader: waits until it may go on, fails if told."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.error: str | None = None

    def __call__(self, source: ModelSource, kv_bytes: int) -> LoadedRunner:
        self.go.wait(10)
        if self.error is not None:
            raise ModelFolderError(self.error)
        runner = FakeRunner(256, BLOCK_SIZE, VOCAB_SIZE)
        return LoadedRunner(runner, loaded_model(source.name, VOCAB_SIZE, 512), 256)


@asynccontextmanager
async def administered(folder: Path, text: str = "hi") -> AsyncIterator[tuple[Served, Loader]]:
    loader = Loader()
    async with serve_script(folder, text, admin_keys=["root:r"]) as (served, _):
        served.services.client._load = loader  # type: ignore[attr-defined]
        write_text_folder(folder / "other")
        yield served, loader


async def admin(served: Served, route: str, **body: Any) -> Any:
    return await served.client.post(f"/admin/{route}", json=body, headers=ADMIN)


async def listed(served: Served) -> dict[str, bool]:
    body = (await served.client.get("/v1/models")).json()
    return {model["id"]: model["ready"] for model in body["data"]}


async def test_a_model_is_loaded_beside_those_that_serve(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, loader):
        loader.go.clear()
        path = str(tmp_path / "other")
        answer = await admin(served, "models/load", name="b", path=path)
        assert (answer.status_code, answer.json()["ready"]) == (202, False)
        assert await listed(served) == {"tiny": True, "b": False}
        ready = await served.client.get("/readyz")
        assert (ready.status_code, ready.json()["models"]["b"]["state"]) == (200, "loading")
        refused(await served.complete(model="b"), 503, "model_loading")
        refused(await admin(served, "models/load", name="b", path=path), 409, "model_busy", "name")
        refused(await admin(served, "models/unload", name="b"), 409, "model_busy", "name")
        loader.go.set()
        async with asyncio.timeout(5):
            while not (await listed(served))["b"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await served.complete(model="b")).status_code == 200
        refused(
            await admin(served, "models/load", name="b", path=path), 409, "already_loaded", "name"
        )
        refused(
            await admin(served, "models/load", name="tiny", path=path),
            409, "already_loaded", "name",
        )  # fmt: skip


async def test_waiting_for_a_load_answers_with_the_model_or_the_reason(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, loader):
        path = str(tmp_path / "other")
        loader.error = "model b: not enough memory"
        answer = await admin(served, "models/load", name="b", path=path, wait=True)
        refused(answer, 400, "invalid_value", "path")
        assert answer.json()["error"]["message"] == loader.error
        refused(await served.complete(model="b"), 404, "model_not_found", "model")
        failed = (await served.client.get("/v1/models")).json()["failed"]
        assert failed == [{"id": "b", "reason": loader.error}]
        assert (await served.client.get("/readyz")).status_code == 200
        loader.error = None
        answer = await admin(served, "models/load", name="b", path=path, wait=True)
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
        assert await listed(served) == {"tiny": True, "b": True}
        for name, wrong in [("c", str(tmp_path / "absent")), ("no name", path)]:
            answer = await admin(served, "models/load", name=name, path=wrong)
            refused(answer, 400, "invalid_value", "path" if name == "c" else "name")
        assert await listed(served) == {"tiny": True, "b": True}


async def test_a_busy_model_is_unloaded_only_with_drain(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, _):
        await admin(served, "models/load", name="b", path=str(tmp_path / "other"), wait=True)
        gate = Gate(served)
        running = asyncio.create_task(served.complete(model="b", max_tokens=3))
        await settle()
        refused(await admin(served, "models/unload", name="b"), 409, "model_busy", "name")
        unload = asyncio.create_task(admin(served, "models/unload", name="b", drain=True))
        await settle()
        refused(await served.complete(model="b"), 404, "model_not_found", "model")
        assert not unload.done()
        await gate.open()
        assert len((await running).json()["choices"]) == 1
        assert (await unload).json() == {"id": "b", "object": "model", "unloaded": True}
        assert await listed(served) == {"tiny": True}
        assert [model.name for model in served.core.loaded_models] == ["tiny"]
        assert list((await served.client.get("/load")).json()["models"]) == ["tiny"]
        assert 'model_state{model="b"' not in (await served.client.get("/metrics")).text
        refused(await admin(served, "models/unload", name="b"), 404, "model_not_found", "name")
        assert (await served.complete()).status_code == 200
        await admin(served, "models/load", name="b", path=str(tmp_path / "other"), wait=True)
        assert (await served.complete(model="b")).status_code == 200
        nothing_left(served)


async def test_the_last_model_may_go_and_another_come(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, _):
        assert (await admin(served, "models/unload", name="tiny")).status_code == 200
        assert await listed(served) == {}
        ready = await served.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "no_model")
        refused(await served.complete(model="tiny"), 404, "model_not_found", "model")
        await admin(served, "models/load", name="b", path=str(tmp_path / "other"), wait=True)
        assert (await served.client.get("/readyz")).status_code == 200
        assert (await served.complete()).json()["model"] == "b"


async def test_an_emptied_cache_is_filled_again(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, _):
        prompt = "abcdefghijkl"
        first = (await served.complete(prompt)).json()

        async def cached() -> int:
            usage = (await served.complete(prompt)).json()["usage"]
            return int(usage["prompt_tokens_details"]["cached_tokens"])

        assert await cached() == 8
        reset = await admin(served, "cache/reset")
        assert reset.json()["blocks"] >= 3
        assert await cached() == 0
        assert await cached() == 8
        assert (await admin(served, "cache/reset", model="tiny")).json()["reset"] is True
        refused(await admin(served, "cache/reset", model="no"), 404, "model_not_found", "model")
        again = (await served.complete(prompt)).json()
        assert again["choices"] == first["choices"]
        nothing_left(served)


async def test_a_cache_is_emptied_under_running_requests(tmp_path: Path) -> None:
    async with administered(tmp_path, "wxyz" * 6) as (served, _):
        gate = Gate(served)
        body = {"prompt": "abcdefghijkl", "max_tokens": 24, "n": 3, "seed": 1}
        running = [asyncio.create_task(served.complete(**body)) for _ in range(2)]
        await settle()
        for _ in range(8):
            await gate.allow(3)
            await admin(served, "cache/reset")
            served.core.check()
        await gate.open()
        for answer in [await task for task in running]:
            assert {c["text"] for c in answer.json()["choices"]} == {"wxyz" * 6}
        nothing_left(served)


async def test_a_drained_server_takes_no_new_work_until_told(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, _):
        gate = Gate(served)
        running = AsgiCall(served, "/v1/completions", {"prompt": "x", "stream": True})
        await settle()
        answer = await admin(served, "drain")
        assert answer.json() == {"draining": True, "open_requests": 1}
        ready = await served.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        refused(await served.complete(), 503, "shutting_down")
        await gate.open()
        await running.task
        assert running.events[-1]["choices"][0]["finish_reason"] == "stop"
        assert (await admin(served, "drain", drain=False)).json()["draining"] is False
        assert (await served.client.get("/readyz")).status_code == 200
        assert (await served.complete()).status_code == 200


async def test_these_routes_need_the_admin_key(tmp_path: Path) -> None:
    async with administered(tmp_path) as (served, _):
        for path in ("models/load", "models/unload", "cache/reset", "drain"):
            response = await served.client.post(f"/admin/{path}", json={})
            refused(response, 401, "invalid_api_key")
    async with serve_script(tmp_path / "none", "x") as (served, _):
        refused(await served.client.post("/admin/drain", json={}), 404, "unknown_url")
