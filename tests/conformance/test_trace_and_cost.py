"""include "trace" and "usage_cost" from a server process: the same text with and without, and every
CPU second of the engine on somebody's receipt."""

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conformance.served import ServerProcess

NUM_LAYERS = 12
DRAWN = {
    "prompt": "Once upon", "max_tokens": 12, "ignore_eos": True, "seed": 3, "temperature": 0.9,
    "top_k": 40, "top_p": 0.8, "presence_penalty": 0.5, "logprobs": 2,
}  # fmt: skip
TRACED = {**DRAWN, "include": ["trace"]}


def ask(server: ServerProcess, body: dict[str, Any], route: str = "completions") -> Any:
    response = httpx.post(f"{server.url}/v1/{route}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def events(
    server: ServerProcess, body: dict[str, Any], route: str = "completions"
) -> list[dict[str, Any]]:
    body = {**body, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/{route}", json=body, timeout=60) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def without_index(trace: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != "index"} for entry in trace]


def test_a_trace_tells_how_each_token_came_about(server: ServerProcess) -> None:
    answer = ask(server, TRACED)
    trace, logprobs = answer["ext"]["trace"], answer["choices"][0]["logprobs"]
    assert [entry["token"] for entry in trace] == logprobs["tokens"]
    assert [entry["logprob"] for entry in trace] == logprobs["token_logprobs"]
    for entry in trace:
        assert entry["index"] == 0
        assert [step["step"] for step in entry["steps"]] == [
            "penalties", "temperature", "top_k", "top_p",
        ]  # fmt: skip
        lefts = [step["left"] for step in entry["steps"]]
        assert lefts == sorted(lefts, reverse=True)
        assert 1 <= lefts[-1] <= lefts[-2] == 40
        assert all(0 <= step["removed"] < 1 for step in entry["steps"])
        assert 0 <= entry["uniform"] < 1
        assert 0 < entry["entropy"] < math.log(300)
        assert len(entry["alternatives"]) == 2
        assert len(entry["lens"]) == NUM_LAYERS
        # What the last layer says is what the model says.
        best, last = entry["alternatives"][0], entry["lens"][-1]
        assert (last["token"], last["id"]) == (best["token"], best["id"])
        assert last["probability"] == pytest.approx(math.exp(best["logprob"]), rel=1e-4)
        assert (entry["rank"] == 1) == (entry["id"] == best["id"])


def test_a_trace_changes_no_token_and_no_logprob(server: ServerProcess) -> None:
    """Of the request itself, and of others in its batch."""
    plain = ask(server, DRAWN)["choices"]
    alone = ask(server, TRACED)
    assert alone["choices"] == plain
    with ThreadPoolExecutor(12) as pool:
        bodies = [TRACED if i % 3 else DRAWN for i in range(12)]
        answers = list(pool.map(lambda body: ask(server, body), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer["choices"] == plain
        if body is TRACED:
            assert answer["ext"]["trace"] == alone["ext"]["trace"]


@pytest.mark.parametrize("route", ["completions", "chat/completions"])
def test_chunks_of_a_stream_carry_the_trace_of_their_tokens(
    server: ServerProcess, route: str
) -> None:
    body = {**TRACED, "n": 2}
    if route != "completions":
        del body["prompt"], body["logprobs"]
        body["messages"] = [{"role": "user", "content": "Hi"}]
    whole = ask(server, body, route)["ext"]["trace"]
    assert len(whole) == 24
    found: dict[int, list[dict[str, Any]]] = {0: [], 1: []}
    for event in events(server, body, route):
        for choice in event["choices"]:
            found[choice["index"]] += choice.get("trace", [])
        assert "trace" not in event.get("ext", {})
    for index in (0, 1):
        assert found[index] == without_index([e for e in whole if e["index"] == index])


def test_greedy_tokens_and_every_alternative(server: ServerProcess) -> None:
    body = {"prompt": "a", "max_tokens": 3, "temperature": 0, "include": ["trace"]}
    for entry in ask(server, body)["ext"]["trace"]:
        assert (entry["rank"], entry["uniform"], entry["steps"]) == (1, None, [])
        assert len(entry["alternatives"]) == 5
        assert entry["alternatives"][0]["id"] == entry["id"]
    banned = {**body, "logit_bias": {str(entry["id"]): -100}, "max_tokens": 1}
    (entry,) = ask(server, {**body, **banned, "return_tokens_as_token_ids": True})["ext"]["trace"]
    assert entry["token"].startswith("token_id:")


def test_a_grammar_is_a_step_of_each_token_it_forces(server: ServerProcess) -> None:
    """The same tokens as without a trace, where forced ones are taken at once."""
    choices = ["hello there", "hello my dear", "help"]
    body = {"prompt": "a", "max_tokens": 30, "seed": 2, "structured_outputs": {"choice": choices}}
    plain, traced = (ask(server, {**body, **more}) for more in ({}, {"include": ["trace"]}))
    assert plain["choices"] == traced["choices"]
    assert plain["usage"] == traced["usage"]
    trace = traced["ext"]["trace"]
    assert plain["choices"][0]["text"] in choices
    assert len(trace) == traced["usage"]["completion_tokens"]
    lefts = [step["left"] for entry in trace for step in entry["steps"][:1]]
    assert all(entry["steps"][0]["step"] == "grammar" for entry in trace)
    assert lefts[:3] == [1, 1, 1]  # h, e, l


def test_the_best_of_several_come_with_their_own_traces(server: ServerProcess) -> None:
    answer = ask(server, {**TRACED, "n": 2, "best_of": 4})
    for index, choice in enumerate(answer["choices"]):
        trace = [entry for entry in answer["ext"]["trace"] if entry["index"] == index]
        assert [entry["token"] for entry in trace] == choice["logprobs"]["tokens"]


def test_a_long_trace_is_refused(server: ServerProcess) -> None:
    body = {**TRACED, "max_tokens": 600, "n": 2}
    response = httpx.post(server.url + "/v1/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (
        400,
        "include",
        "invalid_value",
    )
    assert "at most 1024 tokens" in error["message"]
    assert "max_tokens" in error["hint"]


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process: its clock, as clock_getcpuclockid(3) numbers it."""
    return time.clock_gettime((~pid << 3) | 2)


def test_receipts_add_up_to_the_cpu_time_of_the_engine(server: ServerProcess) -> None:
    """Prefill and decode, streamed and not, chat, several choices, stop strings."""
    server.wait_idle()
    cost = {"include": ["usage_cost"], "ignore_eos": True}
    text = "the quick brown fox jumps over the lazy dog. " * 12

    def one(i: int) -> Any:
        body: dict[str, Any] = {**cost, "seed": i, "max_tokens": 40 + 17 * (i % 5)}
        match i % 4:
            case 0:
                return ask(server, {**body, "prompt": text[i:]})["ext"]
            case 1:
                return events(server, {**body, "prompt": f"{i}", "n": 2})[-1]["ext"]
            case 2:
                chat = {**body, "messages": [{"role": "user", "content": text[: 9 * i]}]}
                return ask(server, chat, "chat/completions")["ext"]
            case _:
                return ask(server, {**body, "prompt": [text[i:90], "b"], "stop": ["e"]})["ext"]

    metric = 'shoal_cpu_seconds_total{model="tiny"}'
    counted = server.metric(metric)
    before = cpu_s(server.engine_pid)
    with ThreadPoolExecutor(6) as pool:
        receipts = [ext["usage_cost"] for ext in pool.map(one, range(32))]
    server.wait_idle()
    used = cpu_s(server.engine_pid) - before
    assert used > 0.2
    total = sum(receipt["cpu_seconds"] for receipt in receipts)
    assert total == pytest.approx(used, rel=0.02)
    assert server.metric(metric) - counted == pytest.approx(used, rel=0.02)


def test_a_receipt_names_what_it_knows(server: ServerProcess) -> None:
    """No price is set here, and whether the machine counts energy it says itself."""
    body = {"prompt": "a" * 300, "max_tokens": 0, "include": ["usage_cost"]}
    receipt = ask(server, body)["ext"]["usage_cost"]
    assert receipt["cpu_seconds"] > 0
    assert receipt["joules_est"] > 0
    assert receipt["energy_source"] in ("rapl", "estimate")
    assert receipt["scope"] == "engine"
    assert (receipt["amount_est"], receipt["currency"]) == (None, None)
