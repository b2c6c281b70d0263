"""/api/embed and /api/embeddings: the shapes of Ollama's API on the same vectors."""

import math
from pathlib import Path

import pytest

from tests.fakes.http_app import EMBEDDING_SIZE, serve
from tests.http.building import until
from tests.http.embedding import same, serve_vectors, vector


async def test_ollama_embeds_texts_as_vectors_of_length_one(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_model_len=32) as served:
        body = {"model": "vectors:latest", "input": ["a fish", "c" * 99], "options": {"odd": 1}}
        response = await served.client.post("/api/embed", json=body)
        answer = response.json()
        for found, text in zip(answer["embeddings"], ("a fish", "c" * 30), strict=True):
            length = math.hypot(*vector(text))
            assert found == pytest.approx([x / length for x in vector(text)], abs=1e-7)
        assert answer["model"] == "vectors:latest"
        assert answer["prompt_eval_count"] == 8 + 32
        assert answer["total_duration"] > 0
        assert response.headers["x-ignored-params"] == "options.odd"
        short = {**body, "input": "a fish", "dimensions": 2}
        cut = (await served.client.post("/api/embed", json=short)).json()["embeddings"]
        assert math.hypot(*cut[0]) == pytest.approx(1.0)
        whole = await served.client.post("/api/embed", json={**body, "truncate": False})
        assert whole.status_code == 400
        assert list(whole.json()) == ["error"]
        load = await served.client.post("/api/embed", json={"model": "vectors", "input": []})
        assert load.json() == {"model": "vectors", "embeddings": []}
        unload = {"model": "vectors", "keep_alive": 0}
        assert (await served.client.post("/api/embed", json=unload)).status_code == 400


async def test_older_clients_of_ollama_embed_one_text(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        body = {"model": "vectors", "prompt": "a fish"}
        answer = (await served.client.post("/api/embeddings", json=body)).json()
        assert same(answer.pop("embedding"), vector("a fish"))
        assert answer == {}
        load = await served.client.post("/api/embeddings", json={"model": "vectors"})
        assert load.json() == {"embedding": []}
        show = (await served.client.post("/api/show", json={"model": "vectors"})).json()
        assert show["capabilities"] == ["embedding"]
        assert show["model_info"]["shoal.embedding_length"] == EMBEDDING_SIZE


async def test_ollama_says_which_model_makes_none(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        for path, body in (("embed", {"input": "x"}), ("embeddings", {"prompt": "x"})):
            response = await served.client.post(f"/api/{path}", json={"model": "tiny", **body})
            assert response.status_code == 400
            assert response.json()["error"].startswith("model tiny makes no embeddings")
        await until(lambda: not served.services.open_requests)
