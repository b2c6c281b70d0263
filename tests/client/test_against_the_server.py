"""The SDK and the real server app, in one process on a fake engine."""

from pathlib import Path
from typing import Any

import pytest

from shoal.client import AsyncClient, BadRequest, ContextLengthExceeded, ModelNotFound
from shoal.client._params import ChatParams, CompletionParams, Extras

pytest.importorskip("fastapi", reason="the server's packages are not installed")

from shoal.server.api.chat.schema import ChatRequest
from shoal.server.api.completions.schema import CompletionRequest
from tests.fakes.http_app import EMBEDDING_SIZE, serve

MESSAGES = [{"role": "user", "content": "Hi"}]


# Other names for what the SDK offers by one.
ALIASES = {"guided_json", "guided_regex", "guided_choice", "guided_grammar", "adapter"}


@pytest.mark.parametrize(
    ("params", "request_type"),
    [(CompletionParams, CompletionRequest), (ChatParams, ChatRequest)],
)
def test_arguments_are_those_the_server_knows(params: Any, request_type: Any) -> None:
    ours = set(params.__annotations__) - set(Extras.__annotations__)
    theirs = set(request_type.model_fields) - {"prompt", "messages", "stream"}
    known = theirs | set(request_type.model_construct().neutral_values())
    assert theirs - ours - ALIASES == set()
    assert ours - known == set()


async def test_calls_and_results_fit_the_server(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        client = AsyncClient(base_url="http://127.0.0.1", http_client=served.client)
        await client.wait_until_ready(5.0)
        health = await client.health()
        assert (health.ready, health.status) == (True, "ok")
        (model,) = await client.models.list()
        assert (model.id, model.ready) == ("tiny", True)
        assert (await client.models.retrieve("tiny")).max_model_len == model.max_model_len
        tokens = await client.tokenize("Once upon", return_token_strs=True)
        assert tokens.count == len(tokens.tokens) == len(tokens.token_strs or [])
        assert (await client.detokenize(tokens.tokens)).prompt.strip() == "Once upon"
        assert (await client.tokenize(messages=MESSAGES)).prompt


async def test_streamed_results_equal_plain_ones(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        client = AsyncClient(base_url="http://127.0.0.1", http_client=served.client)
        plain = await client.completions.create(
            ["Once", "upon"], n=2, max_tokens=6, seed=1, logprobs=2, return_token_ids=True,
            include=["seed"],
        )  # fmt: skip
        stream = await client.completions.create(
            ["Once", "upon"], n=2, max_tokens=6, seed=1, logprobs=2, return_token_ids=True,
            include=["seed"], stream=True,
        )  # fmt: skip
        whole = await stream.final()
        assert whole.choices == plain.choices
        assert len(plain.choices) == 4
        assert whole.usage is not None
        assert plain.usage is not None
        assert whole.usage.completion_tokens == plain.usage.completion_tokens
        assert plain.ext is not None
        assert plain.ext == whole.ext
        assert len(plain.ext.seed or []) == 4

        said = await client.chat.create(MESSAGES, max_tokens=6, seed=1)
        chat = await client.chat.create(MESSAGES, max_tokens=6, seed=1, stream=True)
        assert [text async for text in chat.text_deltas()]
        whole_chat = await chat.final()
        assert whole_chat.choices == said.choices
        assert said.timings.queue_ms is not None


async def test_embeddings_are_those_of_the_server(tmp_path: Path) -> None:
    async with serve(tmp_path, encoders=("vectors",)) as served:
        client = AsyncClient(base_url="http://127.0.0.1", http_client=served.client)
        model = await client.models.retrieve("vectors")
        assert (model.capabilities, model.embedding_size) == (["embedding"], EMBEDDING_SIZE)
        found = await client.embeddings.create(["a fish", "the sea"])
        plain = await client.embeddings.create(["a fish", "the sea"], encoding_format="float")
        for entry, other in zip(found.data, plain.data, strict=True):
            assert len(entry.embedding) == EMBEDDING_SIZE
            assert entry.embedding == pytest.approx(other.embedding, abs=1e-7)
        assert [entry.index for entry in found.data] == [0, 1]
        assert found.model == "vectors"
        assert found.usage == plain.usage
        few = await client.embeddings.create([1, 2, 3], dimensions=2, model="vectors")
        assert [len(entry.embedding) for entry in few.data] == [2]
        with pytest.raises(BadRequest) as wrong:
            await client.embeddings.create("x", model="tiny")
        assert wrong.value.code == "not_supported_by_model"
        with pytest.raises(ContextLengthExceeded):
            await client.embeddings.create("x" * 2000)


async def test_the_servers_errors_have_their_classes(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        client = AsyncClient(base_url="http://127.0.0.1", http_client=served.client)
        with pytest.raises(ModelNotFound) as missing:
            await client.completions.create("x", model="no-such")
        assert missing.value.param == "model"
        with pytest.raises(BadRequest) as wrong:
            await client.completions.create("x", top_p=1.4)
        assert (wrong.value.param, wrong.value.code) == ("top_p", "invalid_value")
        with pytest.raises(ContextLengthExceeded):
            await client.completions.create("x", max_tokens=100_000)
        with pytest.raises(BadRequest):
            await client.completions.create("x", stream=True, n=0)
        with pytest.warns(UserWarning, match="unknown parameter 'colour'"):
            result = await client.completions.create("x", extra_body={"colour": "blue"})
        assert result.ignored_params == ("colour",)
