"""Models, tokens, health, metrics, version, load, and documentation that works offline."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from shoal.bridge.engine_client import ModelState
from shoal.server.api.health import MAX_LOOP_LAG_S
from tests.fakes.http_app import serve
from tests.fakes.text_folder import CHAT_TEMPLATE
from tests.http.building import AsgiCall, Gate, refused, serve_script


async def test_models_are_listed_in_the_documented_shape(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b"), generation={"temperature": 0.7}) as served:
        body = (await served.client.get("/v1/models")).json()
        assert body["object"] == "list"
        assert [model["id"] for model in body["data"]] == ["a", "b"]
        first = body["data"][0]
        assert first.pop("created") > 1_700_000_000
        assert first == {
            "id": "a", "object": "model", "owned_by": "local", "root": "a", "parent": None,
            "max_model_len": 1024, "ready": True,
            "capabilities": ["completion", "chat", "tools"], "tools": "generic",
            "tool_format": "hermes",
            "defaults": {"temperature": 0.7}, "embedding_size": None, "num_parameters": 0,
            "dtype": "float32",
            "device": "cpu", "kernels": "fake", "kernels_reason": None, "quantization": "none",
            "quality_loss": None, "weight_bytes": 0,
        }  # fmt: skip
        assert (await served.client.get("/v1/models/b")).json()["id"] == "b"


@pytest.mark.parametrize("name", ["x", "a/b", "../a", "%2e%2e/a", "a%00", "m" * 500])
async def test_an_unknown_model_is_not_found(tmp_path: Path, name: str) -> None:
    async with serve(tmp_path, names=("a",)) as served:
        response = await served.client.get(f"/v1/models/{name}")
        assert response.status_code == 404
        assert response.json()["error"]["code"] in ("model_not_found", "unknown_url")
        assert len(response.content) < 1000


async def test_a_model_without_a_template_cannot_chat(tmp_path: Path) -> None:
    async with serve(tmp_path, chat=False) as served:
        (model,) = (await served.client.get("/v1/models")).json()["data"]
        assert model["capabilities"] == ["completion"]


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
async def test_a_text_is_tokenized(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        body = {"prompt": "hé", "return_token_strs": True, "zoo": 1}
        response = await served.client.post(path, json=body)
        assert response.json() == {
            "count": 3, "max_model_len": 1024, "tokens": [104, 0xC3, 0xA9],
            "token_strs": ["h", "bytes:\\xc3", "bytes:\\xa9"], "prompt": None,
        }  # fmt: skip
        assert response.headers["x-ignored-params"] == "zoo"


async def test_messages_are_rendered_and_tokenized(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        messages = [{"role": "user", "content": "a<|end|>"}]
        body = {"messages": messages, "add_generation_prompt": False}
        response = await served.client.post("/tokenize", json=body)
        assert response.json()["tokens"] == [257, 10, *b"a<|end|>", 260, 10]
        assert response.json()["prompt"] == "<|user|>\na<|end|><|end|>\n"
        assert "x-ignored-params" not in response.headers


async def test_what_tokenize_counts_is_what_a_chat_costs(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        messages = [{"role": "user", "content": "Hi"}]
        counted = await served.client.post("/tokenize", json={"messages": messages})
        chat = await served.chat("Hi", max_tokens=1)
        assert chat.json()["usage"]["prompt_tokens"] == counted.json()["count"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"), ({"prompt": "x", "messages": []}, "prompt"), ({"prompt": 7}, "prompt"),
        ({"messages": []}, "messages"), ({"messages": [{"role": "x"}]}, "messages.0.role"),
        ({"prompt": "x", "return_token_strs": 1}, "return_token_strs"),
    ],
)  # fmt: skip
async def test_bad_tokenize_requests_are_refused(
    tmp_path: Path, body: dict[str, Any], param: str
) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.post("/tokenize", json=body)
        refused(response, 400, response.json()["error"]["code"], param)


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
async def test_ids_become_text_with_special_tokens_spelled_out(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.post(path, json={"tokens": [257, 104, 0xC3, 0xA9]})
        assert response.json() == {"prompt": "<|user|>hé"}
        assert (await served.client.post(path, json={"tokens": []})).json() == {"prompt": ""}
        for tokens in (None, "x", [1.5], ["1"], [True], [[1]]):
            refusal = await served.client.post(path, json={"tokens": tokens})
            assert refusal.status_code == 400


async def test_the_tokenizer_is_described(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        info = (await served.client.get("/tokenizer_info", params={"model": "tiny"})).json()
        assert info["eos_token"] == "<|endoftext|>"
        assert info["chat_template"] == CHAT_TEMPLATE
        assert info["vocab_size"] == 261


# --- health --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/readyz", "/health/ready", "/livez", "/health/live"])
async def test_a_serving_server_is_healthy(tmp_path: Path, path: str) -> None:
    async with serve(tmp_path) as served:
        response = await served.client.get(path)
        assert response.status_code == 200
        assert response.json()["status"] == "ok"


class _Engine:
    """An engine in a state of the test's choice."""

    def __init__(self, states: dict[str, ModelState], silent_s: float = 0.0) -> None:
        self.states, self.silent_s = states, silent_s
        self.loaded: dict[str, Any] = {}
        self.stats: dict[str, Any] = {}


@pytest.mark.parametrize(
    ("engine", "status"),
    [
        (_Engine({"tiny": ModelState("loading", 0.4)}), "loading"),
        (_Engine({"tiny": ModelState("failed", reason="bad folder")}), "failed"),
        (_Engine({"a": ModelState("ready", 1.0), "b": ModelState("loading")}), "loading"),
        (_Engine({}), "no_model"),
        (_Engine({"tiny": ModelState("ready", 1.0)}, silent_s=6), "engine_silent"),
    ],
)
async def test_readiness_tells_each_cause_while_the_process_lives(
    tmp_path: Path, engine: Any, status: str
) -> None:
    async with serve(tmp_path) as served:
        served.services.client = engine
        for path in ("/readyz", "/health"):
            response = await served.client.get(path)
            assert response.status_code == 503
            assert response.json()["status"] == status
            assert set(response.json()["models"]) == set(engine.states)
        assert (await served.client.get("/livez")).status_code == 200


async def test_a_failed_model_is_listed_apart_and_requests_to_it_say_why(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b")) as served:
        del served.services.models["b"]
        served.services.failed["b"] = "b is an adapter"
        ready = await served.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["models"]["b"]["state"] == "failed"
        listed = (await served.client.get("/v1/models")).json()
        assert [model["id"] for model in listed["data"]] == ["a"]
        assert listed["failed"] == [{"id": "b", "reason": "b is an adapter"}]
        for response in (
            await served.client.get("/v1/models/b"),
            await served.complete(model="b"),
            await served.chat(model="b"),
        ):
            refused(response, 404, "model_not_found", param="model")
            assert "could not be loaded: b is an adapter" in response.json()["error"]["message"]
        assert (await served.complete(max_tokens=1)).status_code == 200  # the one that is left
        metrics = (await served.client.get("/metrics")).text
        assert re.search(r'state="failed"\} 1', metrics)


async def test_a_model_whose_text_side_loads_is_listed_and_not_ready(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b")) as served:
        served.services.configured = ("b", "a")
        model = served.services.models.pop("b")
        ready = await served.client.get("/readyz")
        assert (ready.status_code, ready.json()["models"]["b"]["state"]) == (503, "loading")
        listed = (await served.client.get("/v1/models")).json()["data"]
        assert [(one["id"], one["ready"]) for one in listed] == [("b", False), ("a", True)]
        assert (await served.client.get("/v1/models/b")).json()["ready"] is False
        refused(await served.complete(model="b"), 503, "model_loading")
        assert (await served.complete(model="a", max_tokens=1)).status_code == 200
        served.services.models["b"] = model
        assert (await served.complete(model="b", max_tokens=1)).status_code == 200
        assert (await served.client.get("/readyz")).status_code == 200


async def test_a_model_answers_to_its_aliases(tmp_path: Path) -> None:
    async with serve(tmp_path, names=("a", "b"), default_model="also-b") as served:
        served.services.aliases = {"also-b": "b", "org/b:1": "b"}
        listed = (await served.client.get("/v1/models")).json()["data"]
        assert [(one["id"], one["root"]) for one in listed] == [
            ("b", "b"),
            ("also-b", "b"),
            ("org/b:1", "b"),
            ("a", "a"),
        ]
        one = (await served.client.get("/v1/models/org/b:1")).json()
        assert (one["id"], one["root"], one["ready"]) == ("org/b:1", "b", True)
        for name in ("also-b", "org/b:1", None):
            answer = await served.complete(model=name, max_tokens=1)
            assert answer.json()["model"] == "b"
        refused(await served.complete(model="c"), 404, "model_not_found", param="model")


async def test_progress_of_loading_is_shown(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        engine: Any = _Engine({"tiny": ModelState("loading", 0.4)})
        served.services.client = engine
        models = (await served.client.get("/readyz")).json()["models"]
        assert models == {"tiny": {"state": "loading", "progress": 0.4}}
        (listed,) = (await served.client.get("/v1/models")).json()["data"]
        assert (listed["ready"], listed["max_model_len"]) == (False, None)


async def test_a_stuck_event_loop_is_not_alive(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        served.services.loop_beat -= MAX_LOOP_LAG_S + 1
        assert (await served.client.get("/livez")).status_code == 503


# --- numbers -------------------------------------------------------------------------------------

PROMISED = {
    "requests_total", "requests_running", "requests_waiting", "queue_tokens", "queue_seconds",
    "time_to_first_token_seconds", "inter_token_seconds", "request_seconds",
    "prompt_tokens_total", "generation_tokens_total", "cached_prompt_tokens_total",
    "kv_blocks_used", "kv_blocks_total", "preemptions_total", "rejected_total",
    "cancelled_total", "batch_size", "step_seconds", "model_state", "loop_lag_seconds",
}  # fmt: skip


async def test_the_promised_metrics_are_there_and_count(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc", max_batch_size=4, max_queue=0) as (served, _):
        await served.complete("xyz", n=2)
        await served.complete("x" * 33)
        await served.complete("x" * 33, stream=True)
        gate = Gate(served)
        busy = AsgiCall(served, "/v1/completions", {"prompt": "x", "n": 4})
        await gate.allow(1)
        await served.complete()  # refused
        text = (await served.client.get("/metrics")).text
        names = set(re.findall(r"^# TYPE shoal_(\w+)", text, re.MULTILINE))
        assert {name.removesuffix("_total") for name in PROMISED} <= {
            name.removesuffix("_total") for name in names
        }
        for line in (
            'shoal_requests_total{model="tiny",route="/v1/completions",status="200"} 3.0',
            'shoal_requests_total{model="tiny",route="/v1/completions",status="503"} 1.0',
            'shoal_rejected_total{model="tiny",reason="server_is_overloaded"} 1.0',
            'shoal_prompt_tokens_total{model="tiny"} 69.0',
            'shoal_cached_prompt_tokens_total{model="tiny"} 32.0',
            'shoal_generation_tokens_total{model="tiny"} 20.0',
            'shoal_requests_running{model="tiny"} 4.0',
            'shoal_model_state{model="tiny",state="ready"} 1.0',
            'shoal_model_state{model="tiny",state="loading"} 0.0',
            'shoal_request_seconds_count{model="tiny"} 3.0',
        ):
            assert line in text.splitlines(), line
        load = (await served.client.get("/load")).json()["models"]["tiny"]
        assert (load["running"], load["waiting"]) == (4, 0)
        assert load["kv_used"] > 0
        await gate.open()
        await busy.task


async def test_version_says_what_computes(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        body = (await served.client.get("/version")).json()
        assert body["version"]
        assert body["models"]["tiny"] == {
            "kernels": "fake", "kernels_reason": None, "device": "cpu", "dtype": "float32",
            "weights": "0" * 16,
        }  # fmt: skip


# --- documentation -------------------------------------------------------------------------------


async def test_the_docs_page_needs_no_other_host(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        page = await served.client.get("/docs")
        assert page.status_code == 200
        links = re.findall(r"(?:src|href|url)\s*[=:]\s*[\"']([^\"']+)", page.text)
        assert len(links) >= 3
        for link in links:
            assert link.startswith("/"), link
            assert (await served.client.get(link)).status_code == 200, link
        assert not re.findall(r"https?://(?!127\.0\.0\.1)", page.text)
        styles = await served.client.get("/static-offline-docs/swagger-ui.css")
        assert not re.findall(r"url\(\s*[\"']?https?:", styles.text)
        assert "@import" not in styles.text


async def test_openapi_promises_no_status_that_is_never_sent(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        spec = (await served.client.get("/openapi.json")).text
        assert '"422"' not in spec
        assert "ValidationError" not in spec


async def test_openapi_lists_the_routes_with_their_fields(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        spec = (await served.client.get("/openapi.json")).json()
        assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/{model_id}",
                "/tokenize", "/detokenize", "/livez", "/readyz", "/health", "/metrics",
                "/version", "/load"} <= set(spec["paths"])  # fmt: skip
        body = spec["paths"]["/v1/completions"]["post"]["requestBody"]["content"]
        fields = body["application/json"]["schema"]["properties"]
        assert {"prompt", "temperature", "stop", "logit_bias", "stream_options"} <= set(fields)
        assert "$ref" not in str(body)
        assert spec["paths"]["/v1/completions"]["post"]["responses"].keys() >= {"200", "400", "503"}


async def test_documentation_can_be_turned_off(tmp_path: Path) -> None:
    async with serve(tmp_path, docs=False) as served:
        for path in ("/docs", "/openapi.json", "/redoc", "/static-offline-docs/swagger-ui.css",
                     "/docs/oauth2-redirect"):  # fmt: skip
            refused(await served.client.get(path), 404, "unknown_url")
        assert (await served.client.get("/livez")).status_code == 200


# --- logs ----------------------------------------------------------------------------------------


async def test_one_log_line_a_request_without_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="shoal")
    async with serve_script(tmp_path, "ANSWERCANARY", api_keys=["ann:KEYCANARY"]) as (served, _):
        headers = {"x-api-key": "KEYCANARY", "X-Request-Id": "id-1"}
        body = {"prompt": "PROMPTCANARY", "user": "USERCANARY", "stop": "STOPCANARY"}
        await served.client.post("/v1/completions", json=body, headers=headers)
        await served.client.post("/v1/completions", json={**body, "n": 99}, headers=headers)
    lines = [record for record in caplog.records if record.name == "shoal.access"]
    assert len(lines) == 2
    fields = vars(lines[0])
    assert (fields["request_id"], fields["status"], fields["model"]) == ("id-1", 200, "tiny")
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (12, 13)
    assert vars(lines[1])["status"] == 400
    assert "CANARY" not in " ".join(str(vars(record)) for record in caplog.records)
