"""/v1/embeddings: shapes, numbers, refusals, limits; which models may be asked for what."""

import asyncio
import base64
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from shoal.server.api.generation import response as response_module
from tests.fakes.http_app import EMBEDDING_SIZE, serve
from tests.http.building import AsgiCall, Gate, error_of, nothing_left, refused, settle
from tests.http.embedding import embed, raw_vector, same, serve_vectors, vector

TEXT_ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
    "/api/chat": {"messages": [{"role": "user", "content": "x"}]},
    "/api/generate": {"prompt": "x"},
    "/v1/score_choices": {"prompt": "x", "choices": ["y"]},
    "/v1/perplexity": {"input": "xyz"},
}


async def test_an_answer_has_the_shape_of_the_openai_api(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        response = await embed(served, "a fish", user="ann")
        assert response.status_code == 200, response.text
        answer = response.json()
        [entry] = answer.pop("data")
        assert same(entry.pop("embedding"), vector("a fish"))
        assert entry == {"object": "embedding", "index": 0}
        assert answer == {
            "object": "list",
            "model": "vectors",
            "usage": {
                "prompt_tokens": 8,
                "total_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }
        assert "x-ignored-params" not in response.headers


async def test_an_operator_is_told_of_answers_only_where_a_model_gives_some(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("tiny",), encoders=("vectors",)) as served:
        services = served.services
        for name, model in services.models.items():
            services.models[name] = replace(model, remarks=("names no end token",))
        assert [*services.remarks()] == [("tiny", "names no end token")]


async def test_every_kind_of_input_in_its_order(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        kinds: list[tuple[Any, list[Any]]] = [
            (["sea", "a fish", "sea"], ["sea", "a fish", "sea"]),
            ([1, 2, 3], [[1, 2, 3]]),
            ([[1, 2], [9], [1, 2, 3]], [[1, 2], [9], [1, 2, 3]]),
        ]
        for given, inputs in kinds:
            answer = (await embed(served, given)).json()
            assert [entry["index"] for entry in answer["data"]] == list(range(len(inputs)))
            for entry, item in zip(answer["data"], inputs, strict=True):
                assert same(entry["embedding"], vector(item)), item
        bare = await embed(served, "sea", add_special_tokens=False)
        assert same(bare.json()["data"][0]["embedding"], vector(list(b"sea")))


async def test_numbers_are_short_and_exact(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        text = (await embed(served, "a fish")).text
        numbers = text.partition('"embedding":[')[2].partition("]")[0].split(",")
        assert all(len(number) <= 16 for number in numbers)
        encoded = (await embed(served, "a fish", encoding_format="base64")).json()
        assert base64.b64decode(encoded["data"][0]["embedding"]) == raw_vector("a fish")


async def test_the_openai_client_gets_numbers(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        client = openai.AsyncOpenAI(
            base_url="http://127.0.0.1/v1", api_key="x", http_client=served.client, max_retries=0
        )
        found = await client.embeddings.create(model="vectors", input=["a", "b"])
        assert [same(entry.embedding, vector(t)) for entry, t in zip(found.data, "ab", strict=True)]
        assert found.usage.total_tokens == 6
        few = await client.embeddings.create(model="vectors", input="a", dimensions=2)
        assert len(few.data[0].embedding) == 2
        with pytest.raises(openai.BadRequestError) as caught:
            await client.embeddings.create(model="vectors", input="")
        assert caught.value.param == "input"


async def test_fewer_dimensions_are_scaled_to_length_one(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        cut = (await embed(served, "a fish", dimensions=3)).json()["data"][0]["embedding"]
        length = math.hypot(*vector("a fish")[:3])
        assert cut == pytest.approx([x / length for x in vector("a fish")[:3]], abs=1e-7)
        whole = (await embed(served, "a fish", dimensions=EMBEDDING_SIZE)).json()
        assert same(whole["data"][0]["embedding"], vector("a fish"))
        refused(await embed(served, "x", dimensions=7), 400, "invalid_value", "dimensions")


async def test_what_cannot_be_embedded_is_refused_by_name(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_model_len=32) as served:
        for given, part in [
            ("", "input is empty"),
            ([""], "input is empty"),
            (["a", ""], "input.1 is empty"),
            ([], "input must be a string, or a non-empty array"),
            ([[]], "input holds an empty array, at 0"),
            ([[1], []], "input holds an empty array, at 1"),
            (["a", 1], "input must hold only"),
            ([1, "a"], "input must hold only"),
            ([[1], "a"], "input must hold only"),
            ([1.5], "input must hold only"),
            ({"text": "a"}, "input must be a string"),
            (7, "input must be a string"),
            ([9999], "input holds token id 9999"),
            ([[1], [-1]], "input.1 holds token id -1"),
            (["a"] * 2049, "input may hold at most 2048 texts; got 2049"),
        ]:
            response = await embed(served, given)
            refused(response, 400, "invalid_value", part.split()[0])
            assert part in error_of(response)["message"], (given, response.text)
        for fields, param in [
            ({"encoding_format": "hex"}, "encoding_format"),
            ({"dimensions": 0}, "dimensions"),
            ({"dimensions": 2.5}, "dimensions"),
            ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
            ({"truncate_prompt_tokens": 2}, "truncate_prompt_tokens"),
            ({"truncate_prompt_tokens": 33}, "truncate_prompt_tokens"),
            ({"max_time": 0}, "max_time"),
        ]:
            refused(await embed(served, "a", **fields), 400, "invalid_value", param)
        missing = await served.client.post("/v1/embeddings", json={})
        refused(missing, 400, "missing_required_parameter", "input")
        refused(await embed(served, "a", model="no"), 404, "model_not_found", "model")
        odd = await embed(served, "a", odd=1, encoding_format=None)
        assert (odd.status_code, odd.headers["x-ignored-params"]) == (200, "odd")
        refused(await embed(served, "a", odd=1, strict=True), 400, "unknown_parameter", "odd")
        nothing_left(served)


async def test_a_long_text_is_refused_or_cut_on_request(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_model_len=32) as served:
        for given in (["b", "c" * 31], [[1], [1] * 33]):
            response = await embed(served, given)
            refused(response, 400, "context_length_exceeded", "input.1")
            message = error_of(response)["message"]
            assert "32 tokens" in message
            assert "input.1 has 33 tokens" in message
        endless = await embed(served, ["b", "c" * 600])
        refused(endless, 400, "context_length_exceeded", "input.1")
        assert (await embed(served, "c" * 30)).status_code == 200
        for most, kept in ((-1, 30), (5, 3)):
            answer = (await embed(served, ["ab", "c" * 600], truncate_prompt_tokens=most)).json()
            assert same(answer["data"][0]["embedding"], vector("ab"))
            assert same(answer["data"][1]["embedding"], vector("c" * kept))
            assert answer["ext"] == {"truncated": [0, 600 - kept]}
        ids = (await embed(served, [5] * 40, truncate_prompt_tokens=-1)).json()
        assert same(ids["data"][0]["embedding"], vector([5] * 32))
        assert ids["ext"] == {"truncated": [8]}
        nothing_left(served)


@pytest.mark.parametrize("limits", [{"max_batch_size": 4}, {"tenant_max_queue": 3}])
async def test_very_many_inputs_run_a_few_at_a_time(tmp_path: Path, limits: Any) -> None:
    async with serve_vectors(tmp_path, max_queue=2, **limits) as served:
        most = 0
        step = served.core.step

        def watching() -> Any:
            nonlocal most
            stats = served.core.stats()[0]
            most = max(most, stats.num_running + stats.num_waiting)
            return step()

        served.core.step = watching  # type: ignore[method-assign]
        inputs = [[i % 250, i // 250] for i in range(2048)]
        answer = (await embed(served, inputs, encoding_format="base64")).json()
        found = [base64.b64decode(entry["embedding"]) for entry in answer["data"]]
        assert found == list(map(raw_vector, inputs))
        assert most == next(iter(limits.values()))
        del served.core.step
        nothing_left(served)


async def test_two_large_requests_fit_the_queue(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_batch_size=4, max_queue=4) as served:
        inputs = [[i] for i in range(100)]
        answers = await asyncio.gather(embed(served, inputs), embed(served, inputs))
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_large_answer_is_sent_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_vectors(tmp_path) as served:
        whole = (await embed(served, ["a", "b", "c"])).json()
        monkeypatch.setattr(response_module, "_WHOLE_CHARS", 8)
        in_pieces = await embed(served, ["a", "b", "c"])
        assert "content-length" not in in_pieces.headers
        assert in_pieces.json() == whole


@pytest.mark.parametrize("num_steps", [0, 1])
async def test_a_disconnect_cancels_what_runs_and_what_has_not_begun(
    tmp_path: Path, num_steps: int
) -> None:
    async with serve_vectors(tmp_path, max_batch_size=2) as served:
        gate = Gate(served)
        call = AsgiCall(served, "/v1/embeddings", {"input": [[i] for i in range(20)]})
        await gate.allow(num_steps)
        call.disconnect()
        await asyncio.wait_for(call.task, 2)
        nothing_left(served)
        await gate.open()
        assert len(gate.steps) == num_steps
        assert call.answer.status == 0


async def test_a_cancelled_request_has_no_part_of_its_vectors(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_batch_size=2) as served:
        gate = Gate(served)
        body = {"input": [[i] for i in range(20)]}
        headers = {"x-request-id": "one"}
        post = served.client.post("/v1/embeddings", json=body, headers=headers)
        request = asyncio.create_task(post)
        await settle()
        await gate.allow(2)
        cancelled = await served.client.post("/v1/requests/one/cancel")
        assert cancelled.json() == {"cancelled": True, "tokens_generated": 0}
        refused(await request, 400, "request_cancelled")
        nothing_left(served)
        await gate.open()


async def test_a_deadline_is_that_of_the_whole_request(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_batch_size=1) as served:
        gate = Gate(served)
        request = asyncio.create_task(embed(served, [[1], [2], [3]], max_time=0.05))
        await settle()
        await gate.allow(1)
        await asyncio.sleep(0.06)
        await gate.open()
        refused(await request, 504, "request_timeout")
        nothing_left(served)


async def test_numbers_that_are_not_finite_fail_the_request(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        step = served.core.step

        def broken() -> Any:
            outputs = step()
            for seq_id in outputs.embeddings if outputs is not None else ():
                outputs.embeddings[seq_id] = struct.pack("<2f", 1.0, math.nan)
            return outputs

        served.core.step = broken  # type: ignore[method-assign]
        refused(await embed(served, "a"), 500, "numerical_error")
        del served.core.step


async def test_usage_and_metrics_count_prompt_tokens_and_no_first_token(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, api_keys=["ann:a"]) as served:
        served.client.headers["authorization"] = "Bearer a"
        assert (await embed(served, ["abc", "d"])).status_code == 200
        row = (await served.client.get("/v1/usage")).json()["data"][0]
        assert (row["tenant"], row["model"], row["requests"]) == ("ann", "vectors", 1)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (8, 0)
        metrics = (await served.client.get("/metrics")).text
        assert 'shoal_prompt_tokens_total{model="vectors"} 8.0' in metrics
        assert 'shoal_time_to_first_token_seconds_count{model="vectors"}' not in metrics
        assert 'shoal_request_seconds_count{model="vectors"} 1.0' in metrics
        assert 'route="/v1/embeddings",status="200"' in metrics


async def test_a_full_server_says_so(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path, max_batch_size=1, max_queue=0) as served:
        gate = Gate(served)
        first = asyncio.create_task(embed(served, "a"))
        await settle()
        for _ in range(2):  # the second is refused before its route
            full = await embed(served, "b")
            refused(full, 503, "server_is_overloaded")
            assert int(full.headers["retry-after"]) >= 1
        await gate.open()
        assert (await first).status_code == 200


# --- which models --------------------------------------------------------------------------------


async def test_a_decoder_makes_no_embeddings(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        for given in ("a", ["a"], [1, 2], [[1]]):
            for fields in ({}, {"model": "tiny"}):
                response = await embed(served, given, **fields)
                refused(response, 400, "not_supported_by_model", "model")
                assert error_of(response)["message"] == "model tiny makes no embeddings"


async def test_an_encoder_writes_no_text(tmp_path: Path) -> None:
    async with serve_vectors(tmp_path) as served:
        for path, body in TEXT_ROUTES.items():
            response = await served.client.post(path, json={**body, "model": "vectors"})
            assert response.status_code == 400, path
            assert "the model vectors writes no text; it makes embeddings" in response.text, path
        response = await served.client.post("/generate", json={"inputs": "x"})
        assert response.status_code == 400
        assert "the model vectors writes no text" in response.text
        nothing_left(served)


async def test_a_request_without_a_model_means_the_only_one_that_fits(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a",), encoders=("v",)) as served:
        assert (await embed(served, "x")).json()["model"] == "v"
        assert (await served.complete(max_tokens=1)).json()["model"] == "a"
        refused(await embed(served, "x", model="a"), 400, "not_supported_by_model", "model")
    async with serve(tmp_path, names=("a", "b"), encoders=("v", "w")) as served:
        refused(await embed(served, "x"), 400, "missing_required_parameter", "model")
        refused(await served.complete(), 400, "missing_required_parameter", "model")
    async with serve(tmp_path, names=("a", "b"), encoders=("v", "w"), default_model="b") as served:
        assert (await served.complete(max_tokens=1)).json()["model"] == "b"
        refused(await embed(served, "x"), 400, "missing_required_parameter", "model")
    async with serve(tmp_path, names=("a",), encoders=("v", "w"), default_model="w") as served:
        assert (await embed(served, "x")).json()["model"] == "w"
        assert (await served.complete(max_tokens=1)).json()["model"] == "a"
        listed = (await served.client.get("/v1/models")).json()["data"]
        assert listed[0]["id"] == "a"


async def test_while_the_model_of_embeddings_loads_a_request_may_be_sent_again(
    tmp_path: Path,
) -> None:
    async with serve(tmp_path, names=("a",), encoders=("v",)) as served:
        engine: Any = served.services.client
        loaded = engine._loaded.pop("v")
        refused(await embed(served, "x"), 503, "model_loading")
        engine._loaded["v"] = loaded
        assert (await embed(served, "x")).status_code == 200


async def test_models_say_what_they_can(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a",), encoders=("v",)) as served:
        a, v = (await served.client.get("/v1/models")).json()["data"]
        assert (v["capabilities"], v["embedding_size"]) == (["embedding"], EMBEDDING_SIZE)
        assert (v["tools"], v["tool_format"]) == (None, None)
        assert "embedding" not in a["capabilities"]
        assert a["embedding_size"] is None
