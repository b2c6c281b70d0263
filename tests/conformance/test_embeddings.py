"""Embeddings of a real server: as transformers computes them, the same bits alone and among others,
through OpenAI's client and beside a model that writes text."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from shoal import Client
from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama
from tests.fakes.tiny_encoders import write_encoder

torch = pytest.importorskip("torch")

TEXTS = ["a fish", "the sea is blue", "x", "A shoal of small fish. " * 3, "é 🐟", "a fish"]
SIZE = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = write_encoder(tmp_path_factory.mktemp("embeddings") / "vectors", files=True)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    writer = write_tiny_llama(folder.parent / "writer")
    flags = ("--model", str(writer), "--dtype", "float32", "--max-batch-size", "8")
    with serve_process(folder, *flags) as served:
        yield served


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """Text to vector: the mean of the last layer, of length 1."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(text: str) -> Any:
        with torch.no_grad():
            last = model(torch.tensor([list(text.encode())])).last_hidden_state[0]
        vector = last.mean(0).numpy()
        return vector / np.linalg.norm(vector)

    return embed


def post(server: ServerProcess, given: Any, **fields: Any) -> Any:
    body = {"model": "vectors", "input": given, **fields}
    response = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def raw(server: ServerProcess, given: Any) -> list[str]:
    return [e["embedding"] for e in post(server, given, encoding_format="base64")["data"]]


def test_vectors_are_those_of_transformers(server: ServerProcess, theirs: Any) -> None:
    answer = post(server, TEXTS)
    assert answer["usage"]["prompt_tokens"] == sum(len(text.encode()) for text in TEXTS)
    for entry, text in zip(answer["data"], TEXTS, strict=True):
        assert len(entry["embedding"]) == SIZE
        assert np.abs(np.array(entry["embedding"]) - theirs(text)).max() < 1e-4, text


def test_a_vector_is_the_same_alone_and_among_others(server: ServerProcess) -> None:
    alone = [vector for text in TEXTS for vector in raw(server, text)]
    assert raw(server, TEXTS) == alone
    many = [TEXTS[i % len(TEXTS)] for i in range(100)]
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: raw(server, many), range(4)):
            assert found == [alone[i % len(TEXTS)] for i in range(100)]


def test_the_clients_get_numbers(server: ServerProcess, theirs: Any) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        found = client.embeddings.create(model="vectors", input=TEXTS)
    with Client(base_url=server.url) as ours:
        assert ours.models.retrieve("vectors").embedding_size == SIZE
        also = ours.embeddings.create(TEXTS)  # the only model that makes them
    for entry, other, text in zip(found.data, also.data, TEXTS, strict=True):
        assert entry.embedding == other.embedding
        assert np.abs(np.array(entry.embedding) - theirs(text)).max() < 1e-4
    [encoded] = raw(server, TEXTS[:1])
    assert found.data[0].embedding == np.frombuffer(base64.b64decode(encoded), "<f4").tolist()


def test_a_text_that_is_too_long_is_refused_or_cut(server: ServerProcess, theirs: Any) -> None:
    with Client(base_url=server.url) as client:
        longest = client.models.retrieve("vectors").max_model_len
    assert longest is not None
    text = "b" * (longest + 5)
    body = {"model": "vectors", "input": ["a", text]}
    refused = httpx.post(f"{server.url}/v1/embeddings", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input.1")
    cut = post(server, text, truncate_prompt_tokens=-1)
    assert np.abs(np.array(cut["data"][0]["embedding"]) - theirs(text[:longest])).max() < 1e-4
    assert cut["ext"] == {"truncated": [5]}


def test_each_model_is_asked_for_what_it_can(server: ServerProcess) -> None:
    with httpx.Client(base_url=server.url) as client:
        said = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 3})
        assert said.json()["model"] == "writer"
        wrong = client.post("/v1/completions", json={"model": "vectors", "prompt": "x"})
        assert wrong.json()["error"]["code"] == "not_supported_by_model"
        wrong = client.post("/v1/embeddings", json={"model": "writer", "input": "x"})
        assert wrong.json()["error"]["code"] == "not_supported_by_model"
        listed = client.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["writer", "vectors"]
        document = client.get("/openapi.json").json()["paths"]["/v1/embeddings"]["post"]
        example = document["requestBody"]["content"]["application/json"]["example"]
        assert client.post("/v1/embeddings", json=example).status_code == 200
