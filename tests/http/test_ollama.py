"""Ollama's API: /api/chat, /api/generate and what clients ask about models."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from shoal.server.api.ollama.messages import (
    CalledFunction,
    OllamaMessage,
    ToolCall,
    chat_messages,
)
from tests.fakes.http_app import Served, serve
from tests.http.building import serve_script

HI = [{"role": "user", "content": "Hi"}]


async def chat(served: Served, **fields: Any) -> httpx.Response:
    asked = {"model": "tiny", "messages": HI, **fields}
    return await served.client.post("/api/chat", json=asked)


async def generate(served: Served, **fields: Any) -> httpx.Response:
    asked = {"model": "tiny", "prompt": "Hi", **fields}
    return await served.client.post("/api/generate", json=asked)


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


async def test_a_chat_streams_lines_unless_told_not_to(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        found = lines(await chat(served, model="tiny:latest"))
        plain = (await chat(served, stream=False)).json()
    assert "".join(line["message"]["content"] for line in found) == "Hello"
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]
    assert {line["model"] for line in found} == {"tiny:latest"}
    last = found[-1]
    assert last["message"] == {"role": "assistant", "content": ""}
    assert plain["message"] == {"role": "assistant", "content": "Hello"}
    assert last.keys() == plain.keys()
    for end in (last, plain):
        assert end["done_reason"] == "stop"
        assert end["eval_count"] == 6
        assert end["prompt_eval_count"] > 2
        assert end["total_duration"] >= end["eval_duration"] > 0


async def test_generate_uses_the_template_and_raw_does_not(tmp_path: Path) -> None:
    prompts: list[str] = []

    def script(prompt: list[int], sampling: Any) -> list[int]:
        prompts.append("".join(chr(i) if i < 256 else f"<{i}>" for i in prompt))
        return list(b"Hello")

    async with serve_script(tmp_path, script) as (served, _):
        found = lines(await generate(served, system="Be short"))
        raw = (await generate(served, raw=True, stream=False)).json()
    assert "".join(line["response"] for line in found) == raw["response"] == "Hello"
    assert "Be short" in prompts[0]
    assert prompts[0].count("<") > 3
    assert prompts[-1] == "Hi"


async def test_a_model_without_template_continues_the_prompt(tmp_path: Path) -> None:
    async with serve(tmp_path, chat=False) as served:
        answer = (
            await generate(served, stream=False, options={"num_predict": 5, "seed": 3})
        ).json()
        known = (await served.complete("Hi", max_tokens=5, temperature=1, seed=3)).json()
        assert answer["eval_count"] == known["usage"]["completion_tokens"]
        assert (await generate(served, system="Be short")).status_code == 400
        assert (await chat(served)).status_code == 400


async def test_options_are_ours_under_other_names(tmp_path: Path) -> None:
    seen: list[Any] = []

    def script(prompt: list[int], sampling: Any) -> list[int]:
        seen.append(sampling)
        return list(b"Hello")

    options = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "typical_p": 0.5, "seed": 3,
        "repeat_penalty": 1.5, "repeat_last_n": -1, "presence_penalty": 0.5,
        "frequency_penalty": 0.25, "mirostat": 0, "num_ctx": 2048, "num_gpu": 1, "stop": ["lo"],
    }  # fmt: skip
    async with serve_script(tmp_path, script) as (served, _):
        answer = await chat(served, options=options, stream=False, keep_alive="5m")
    assert answer.json()["message"]["content"] == "Hel"
    ignored = "options.num_ctx,options.num_gpu,keep_alive"
    assert answer.headers["x-ignored-params"] == ignored
    sampling = seen[0]
    assert (sampling.seed, sampling.temperature, sampling.top_k) == (3, 0.5, 7)
    assert (sampling.top_p, sampling.min_p, sampling.typical_p) == (0.5, 0.25, 0.5)
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (1.5, 0.5)
    assert sampling.frequency_penalty == 0.25


@pytest.mark.parametrize(
    ("num_predict", "num_tokens", "reason"), [(2, 2, "length"), (-1, 6, "stop"), (9999, 6, "stop")]
)
async def test_num_predict(tmp_path: Path, num_predict: int, num_tokens: int, reason: str) -> None:
    asked: dict[str, Any] = {"options": {"num_predict": num_predict}, "stream": False}
    async with serve_script(tmp_path, "Hello") as (served, _):
        for answer in (
            await chat(served, **asked),
            await generate(served, **asked),
            await generate(served, **asked, raw=True),
        ):
            body = answer.json()
            assert (body["eval_count"], body["done_reason"]) == (num_tokens, reason)


async def test_logprobs_are_those_of_our_chat(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "options": {"temperature": 0}}
    async with serve_script(tmp_path, "Hello") as (served, _):
        plain = (await chat(served, **asked, stream=False)).json()["logprobs"]
        found = lines(await chat(served, **asked))
        known = await served.chat(logprobs=True, top_logprobs=2, temperature=0)
    assert [entry for line in found for entry in line.get("logprobs", ())] == plain
    expected = known.json()["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in plain] == [entry["logprob"] for entry in expected]


async def test_without_input_it_says_that_the_model_is_loaded(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        for answer in (await chat(served, messages=[]), await generate(served, prompt="")):
            assert answer.json()["done_reason"] == "load"
            assert answer.json()["done"] is True
        unload = await generate(served, prompt="", keep_alive=0)
        assert (unload.status_code, "cannot unload" in unload.json()["error"]) == (400, True)


async def test_models_are_listed_and_shown(tmp_path: Path) -> None:
    async with serve(tmp_path, generation={"temperature": 0.7}) as served:
        get = served.client.get
        (listed,) = (await get("/api/tags")).json()["models"]
        (running,) = (await get("/api/ps")).json()["models"]
        shown = (await served.client.post("/api/show", json={"name": listed["name"]})).json()
        version = (await get("/api/version")).json()
        for call in (served.client.get, served.client.head):
            assert (await call("/")).status_code == 200
    assert listed["name"] == listed["model"] == running["name"] == "tiny:latest"
    assert listed["details"]["parameter_size"].endswith("M")
    assert shown["model_info"]["shoal.context_length"] == 1024
    assert shown["parameters"] == "temperature 0.7"
    assert "message.role" in shown["template"]
    assert version["version"].count(".") == 2


async def test_a_pull_finds_what_is_served(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        pull = await served.client.post("/api/pull", json={"model": "tiny:latest"})
        other = await served.client.post("/api/pull", json={"model": "other"})
    assert pull.json() == {"status": "success"}
    assert other.status_code == 404
    assert "shoal pull" in other.json()["error"]


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model is required"),
    ({"messages": [{"role": "user", "content": "x", "images": ["aaaa"]}]}, "images are not"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "role must be"),
    ({"format": "xml"}, "format must be"),
    ({"think": True}, "does not support thinking"),
    ({"think": "high"}, "no levels of thinking"),
    ({"options": {"mirostat": 2}}, "mirostat is not supported"),
    ({"options": {"repeat_penalty": 1.1, "repeat_last_n": 64}}, "repeat_last_n must be -1"),
    ({"options": {"temperature": "hot"}}, "temperature must be a number"),
    ({"n": 2}, "n is not supported"),
]  # fmt: skip


async def test_an_error_is_one_text(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        for fields, message in ERRORS:
            response = await chat(served, **fields)
            assert response.status_code == 400, message
            assert list(response.json()) == ["error"]
            assert message in response.json()["error"]


async def test_generate_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        for name, value in (
            ("template", "{{ .Prompt }}"), ("context", [1, 2]), ("images", ["a"]), ("suffix", "x"),
        ):  # fmt: skip
            answer = await generate(served, **{name: value})
            assert answer.status_code == 400, name
            assert list(answer.json()) == ["error"]


async def test_other_errors_are_one_text_too(tmp_path: Path) -> None:
    async with serve(tmp_path, api_keys=["secret"]) as served:
        client = served.client
        assert list((await client.get("/api/tags")).json()) == ["error"]
        client.headers["authorization"] = "Bearer secret"
        for answer, status in (
            (await chat(served, model="other"), 404),
            (await client.get("/api/nothing"), 404),
            (await client.get("/api/chat"), 405),
            (await client.post("/api/chat", content=b"{}", headers={"origin": "http://x"}), 415),
            (await client.post("/api/embed", json={"model": "tiny", "input": "x"}), 400),
            (await client.request("DELETE", "/api/delete", json={"model": "tiny"}), 400),
            (await client.post("/api/create", json={"model": "x"}), 400),
        ):
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]


async def test_a_failure_within_a_stream_is_its_last_line(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "Hello") as (served, runner):
        run = runner.run

        def failing(plan: Any) -> Any:
            if runner.num_steps >= 3:
                runner.error = "numerical_error"
            return run(plan)

        runner.run = failing  # type: ignore[method-assign]
        found = lines(await chat(served))
    assert found[0]["message"]["content"]
    assert list(found[-1]) == ["error"]


@pytest.mark.parametrize("name", ["", "application/x-www-form-urlencoded", "text/plain"])
async def test_the_body_need_not_be_called_json_unless_a_browser_sends_it(
    tmp_path: Path, name: str
) -> None:
    async with serve_script(tmp_path, "Hello") as (served, _):
        body = json.dumps({"model": "tiny", "messages": HI, "stream": False}).encode()
        headers = {"content-type": name} if name else {}
        post = served.client.post
        answer = await post("/api/chat", content=body, headers=headers)
        assert answer.json()["message"]["content"] == "Hello"
        for browser in ({"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            refused = await post("/api/chat", content=body, headers={**headers, **browser})
            assert refused.status_code == 415
        other = await post("/v1/chat/completions", content=body, headers=headers)
        assert other.status_code == 415


def test_results_without_an_id_answer_the_tool_they_name_else_the_oldest_call() -> None:
    def call(name: str) -> ToolCall:
        return ToolCall(function=CalledFunction(name=name))

    names = (None, "a", None, "b", None, "a", "zoo", None)
    messages = [
        OllamaMessage(role="assistant", tool_calls=[call(name) for name in "babab"]),
        *(OllamaMessage(role="tool", tool_name=name) for name in names),
    ]
    translated, _ = chat_messages(messages)
    answered = [message["tool_call_id"] for message in translated[1:]]
    assert answered == [
        "call_0", "call_1", "call_2", "call_4", "call_3", "call_0", "call_0", "call_0",
    ]  # fmt: skip
