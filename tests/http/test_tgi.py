"""POST /generate, /generate_stream and /, GET /info: the API of text-generation-inference."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.http_app import Served, serve, sse_events
from tests.http.building import serve_script


async def post(
    served: Served, path: str = "/generate", *, top: dict[str, Any] | None = None, **parameters: Any
) -> httpx.Response:
    body = {"inputs": "Once", "parameters": parameters, **(top or {})}
    return await served.client.post(path, json=body)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    return [json.loads(event) for event in sse_events(response.text)]


async def test_a_text(tmp_path: Path) -> None:
    async with serve_script(tmp_path, " upon") as (served, _):
        assert (await post(served)).json() == {"generated_text": " upon"}
        full = await post(served, return_full_text=True)
        assert full.json() == {"generated_text": "Once upon"}
        assert (await post(served, "/")).json() == [{"generated_text": " upon"}]


async def test_details_have_the_tokens_and_those_of_the_prompt(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"details": True, "decoder_input_details": True, "top_n_tokens": 2}
    async with serve_script(tmp_path, " up") as (served, _):
        details = (await post(served, **asked)).json()["details"]
        known = (await served.complete(logprobs=2, echo=True, temperature=0)).json()
    logprobs = known["choices"][0]["logprobs"]
    assert details["finish_reason"] == "eos_token"
    assert details["generated_tokens"] == 4
    assert details["seed"] is None
    assert [token["text"] for token in details["prefill"]] == list("Once")
    shown = details["prefill"] + details["tokens"]
    assert [token["logprob"] for token in shown] == logprobs["token_logprobs"]
    assert [token["text"] for token in shown] == logprobs["tokens"]
    assert [token["special"] for token in details["tokens"]] == [False, False, False, True]
    assert [len(tokens) for tokens in details["top_tokens"]] == [2, 2, 2, 2]


async def test_a_stream_has_an_event_per_token_and_ends_with_the_plain_text(tmp_path: Path) -> None:
    async with serve_script(tmp_path, " upon é!") as (served, _):
        found = events(await post(served, "/generate_stream"))
        same = events(await post(served, "/", top={"stream": True}))
        plain = (await post(served, details=True)).json()
    assert found == same
    assert [event["index"] for event in found] == list(range(1, 11))
    assert [e["token"]["id"] for e in found] == [t["id"] for t in plain["details"]["tokens"]]
    assert "".join(event["token"]["text"] for event in found) == plain["generated_text"]
    assert {event["generated_text"] for event in found[:-1]} == {None}
    assert found[-1]["generated_text"] == plain["generated_text"] == " upon é!"
    assert found[-1]["details"] == {
        "finish_reason": "eos_token", "generated_tokens": 10, "seed": None, "input_length": 4,
    }  # fmt: skip


@pytest.mark.parametrize("stop", ["on", "pon a"])
async def test_a_stop_ends_the_text(tmp_path: Path, stop: str) -> None:
    async with serve_script(tmp_path, " upon a time") as (served, _):
        whole = (await post(served, stop=[stop], details=True)).json()
        last = events(await post(served, "/generate_stream", stop=[stop]))[-1]
        cut = (await post(served, max_new_tokens=2, details=True)).json()
    assert whole["generated_text"] == last["generated_text"] == " upon a time".split(stop)[0]
    assert whole["details"]["finish_reason"] == "stop_sequence"
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert cut["details"]["finish_reason"] == "length"


async def test_it_is_greedy_until_a_sampling_option_is_given(tmp_path: Path) -> None:
    sampled: list[float] = []

    def script(prompt: list[int], sampling: Any) -> list[int]:
        sampled.append(sampling.temperature)
        return []

    async with serve_script(tmp_path, script) as (served, _):
        for options in ({}, {"do_sample": True}, {"top_p": 0.9}, {"temperature": 0.5}):
            assert (await post(served, **options)).status_code == 200
    assert sampled == [0, 1, 1, 0.5]


async def test_the_best_of_several_comes_first(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        asked: dict[str, Any] = {"best_of": 3, "do_sample": True, "seed": 1, "details": True}
        answer = (await post(served, **asked, max_new_tokens=5)).json()
    details = answer["details"]
    candidates = [details, *details["best_of_sequences"]]
    means = [
        sum(token["logprob"] for token in each["tokens"]) / len(each["tokens"])
        for each in candidates
    ]
    assert len(means) == 3
    assert means == sorted(means, reverse=True)
    assert len({each["seed"] for each in candidates}) == 3


async def test_info_tells_the_model_and_its_limits(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("tiny", "other")) as served:
        answer = (await served.client.get("/info")).json()
    assert answer["model_id"] == "tiny"
    assert answer["max_total_tokens"] == 1024


async def test_the_first_model_answers_unless_an_adapter_or_model_is_named(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("tiny", "other")) as served:
        assert (await post(served)).status_code == 200
        assert (await post(served, adapter_id="other")).status_code == 200
        unknown = await post(served, adapter_id="third")
    assert unknown.status_code == 404
    assert unknown.json()["error_type"] == "validation"


async def test_unknown_parameters_are_named_and_ours_are_taken(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        answer = await post(served, foo=1, min_p=0.5)
        assert answer.headers["x-ignored-params"] == "parameters.foo"
        assert (await post(served, min_p=5)).status_code == 400


ERRORS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"inputs": None}, {}, "inputs is required"),
    ({"inputs": 5}, {}, "inputs must be a string"),
    ({}, {"watermark": True}, "watermark is not supported"),
    ({}, {"max_new_tokens": 0}, "must be greater than or equal to 1"),
    ({}, {"max_new_tokens": 5000}, "maximum context length is 1024 tokens"),
    ({}, {"best_of": 2}, "best_of above 1 needs do_sample"),
    ({}, {"grammar": {"type": "xml"}}, "must be json, json_object"),
    ({}, {"temperature": "hot"}, "temperature must be a number"),
    ({}, {"echo": True}, "echo is not supported"),
    ({"n": 3}, {}, "n is not supported"),
]  # fmt: skip


async def test_an_error_has_its_shape(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        for top, parameters, message in ERRORS:
            for path in ("/generate", "/generate_stream", "/"):
                response = await post(served, path, top=top, **parameters)
                assert response.status_code == 400, message
                body = response.json()
                assert message in body.pop("error")
                assert body == {"error_type": "validation"}


async def test_other_errors_have_its_shape_too(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=["secret"]) as served:
        assert (await post(served)).json().keys() == {"error", "error_type"}
        served.client.headers["authorization"] = "Bearer secret"
        wrong = await served.client.get("/generate")
        assert (wrong.status_code, wrong.json()["error_type"]) == (405, "validation")
        served.services.draining = True
        full = await post(served, "/generate_stream")
        assert (full.status_code, full.json()["error_type"]) == (503, "overloaded")
