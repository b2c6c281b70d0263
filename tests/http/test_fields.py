"""Every field of a generation request at and beyond its limits, on both endpoints.

What passes is checked at the engine's door: the Submit that a request becomes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from shoal.protocol import codec
from shoal.protocol.messages import Submit
from shoal.server.tenants import cache_salt
from tests.fakes.http_app import Served
from tests.fakes.text_folder import END_ID, VOCAB_SIZE
from tests.http.building import ScriptedRunner, nothing_left, refused, serve_script

BIG = 10**12

# (field, values that pass, values that do not) on both endpoints
RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("temperature", [0, 0.0, 1e-9, 2, 2.0, None], [-0.01, 2.01, "1", True, [], {}, BIG]),
    ("top_p", [0, 0.5, 1, None], [-0.1, 1.4, "nan", False, BIG]),
    ("n", [1, 2, 16, 1.0, None], [0, -1, 17, 1.5, "1", True, BIG, 1e30]),
    ("stream", [None], ["true", 1, 0, []]),
    ("stop", ["x", ["x"], ["x"] * 32, [], "x" * 1000, None],
     ["", [""], ["x"] * 33, "x" * 1001, 7, [7], {"a": 1}, [None]]),
    ("logit_bias", [{}, {"5": -100, "6": 100.0}, {str(VOCAB_SIZE - 1): 1}, None],
     [{str(VOCAB_SIZE): 1}, {"5": 100.1}, {"5": -101}, {"ab": 1}, {"-1": 1}, {"5": "1"},
      {"5": True}, {"5": None}, [5], "5", {str(i): 1 for i in range(1025)}, {"9" * 30: 1},
      {"05": 1}, {"5": 1, "05": -1}, {"00": 1}]),
    ("presence_penalty", [-2, 0, 2.0, None], [-2.1, 2.1, "0", True]),
    ("frequency_penalty", [-2, 0, 2.0, None], [-2.1, 2.1, "0", True]),
    ("repetition_penalty", [0.01, 1, 10, None], [0, -1, 10.1, "1", True]),
    ("seed", [0, -1, 2**63 - 1, -(2**63), 2**53 + 1, 3.0, None],
     [2**63, 2**64, 2**70, -(2**63) - 1, 2.0**53 + 2, -(2.0**63), 1.5, "1", True]),
    ("user", ["u", "u" * 256, "", None], ["u" * 257, 7, ["u"]]),
    ("top_k", [-1, 0, 1, VOCAB_SIZE, BIG, 2**63, None], [-2, 1.5, "1", True, 1e30, 2.0**54, 2**64]),
    ("min_p", [0, 1, 0.5, None], [-0.1, 1.1, "0"]),
    ("typical_p", [0.01, 1, None], [0, 1.1, "1"]),
    ("min_tokens", [0, 3, None], [-1, 4, 1.5, "1", BIG, 1e30]),
    ("stop_token_ids", [[], [0], [VOCAB_SIZE - 1], [5.0], [5] * 256, None],
     [[VOCAB_SIZE], [-1], [2**31], [2**63], [1e30], [5] * 257, ["5"], 5, [True], [None]]),
    ("ignore_eos", [True, False, None], [1, "true"]),
    ("include_stop_str_in_output", [True, False, None], [0, "false"]),
    ("skip_special_tokens", [True, False, None], [0, "false"]),
    ("priority", [-10, 0, 10, None], [-11, 11, "0", 0.5]),
    ("max_time", [0.1, 600, 1e300, None], [0, -1, "1", True]),
    ("cache_salt", ["s", "s" * 1024, None], ["", "s" * 1025, 7]),
    ("cache_prompt", [True, False, None], [1, "no"]),
    ("return_token_ids", [True, False, None], [1, "no"]),
    ("return_tokens_as_token_ids", [True, False, None], [1, "no"]),
    ("include", [[], ["seed"], ["seed", "timings", "sampling", "queue", "token_ids"],
                 ["usage_cost", "trace"], None],
     [["unheard_of"], "seed", [1], ["x" * 5000]]),
    ("strict", [True, False, None], [1, "no"]),
    ("max_tokens", [1, 3, 3.0, None], [-1, "3", True, 1.5, 2000, BIG, 1e30]),
    ("max_completion_tokens", [3, None], [-1, 4, "3", True]),
    ("no_repeat_ngram_size", [0, 0.0, 2, 64, None], [-1, 65, 1.5, "2", True]),
    ("dry_multiplier", [0, 0.0, 0.8, None], [-0.1, "1", True, 1e7]),
    ("dry_base", [1, 1.75, None], [0.9, "2"]),
    ("dry_allowed_length", [1, 2, 2**31 - 1, None], [0, 1.5, "2", BIG]),
    ("dry_sequence_breakers", [[], ["a"], None], ["a", [""], [1], ["a"] * 65, ["a" * 101]]),
    ("stop_on_loop", [False, True, {}, {"min_repeats": 3}, {"max_period": 256}, None],
     [1, "yes", [], {"min_repeats": 1}, {"max_period": 0}, {"max_period": 257}, {"period": 3}]),
    ("allowed_token_ids", [[], [1], [5.0, 5], None], [[VOCAB_SIZE], [-1], ["1"], [True], 5]),
    ("truncate_prompt_tokens", [-1, 1, 5, BIG, None], [0, -2, 1.5, "5", True]),
    ("use_beam_search", [False, None], [1, "yes"]),
    ("length_penalty", [1, 1.0, None], [2, "1", True]),
    ("early_stopping", [False, None], [True, "never", 0, "no"]),
    ("response_format", [{"type": "text"}, None], [1, "text"]),
    ("structured_outputs", [{}, None], [1, {"regex": "a+", "choice": ["a"]}]),
    ("guided_json", [{}, None], [1]),
    ("guided_regex", [None], [1, ""]),
    ("guided_choice", [[], None], ["a", [1]]),
    ("guided_grammar", [None], [1, ""]),
    # known, not offered here
    ("lora", [None], ["x"]),
    ("adapter", [None], ["x"]),
]  # fmt: skip
COMPLETIONS: list[tuple[str, list[Any], list[Any]]] = [
    ("best_of", [1, 16, None], [0, 17, "1", True, 1.5]),
    ("logprobs", [0, 20, None], [-1, 21, True, False, "1", 1.5]),
    ("prompt_logprobs", [0, 20, None], [-1, 21, "1", 1.5]),
    ("echo", [True, False, None], [1, "yes"]),
    ("add_special_tokens", [True, False, None], [1, "yes"]),
    ("suffix", ["", None], ["x"]),
    ("prompt", ["x", ["x", "y"], [1, 2], [1.0, 2], [[1], [2, 3]], [VOCAB_SIZE - 1], "\x00", " "],
     [[], [[]], [1, "x"], [[1], "x"], [["x"]], [[1], []], [-1], [VOCAB_SIZE], [2**31], [2**63],
      [2**70], [1.5], [True], [None], 7, {}, {"a": 1}, True, [[[1]]], ["x"] * 257, "x" * 20_000]),
]  # fmt: skip
USER = {"role": "user", "content": "x"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT: list[tuple[str, list[Any], list[Any]]] = [
    ("logprobs", [True, False, None], [1, 0, "true"]),
    ("top_logprobs", [0, None], [-1, 21, "1", 3]),  # 3 needs logprobs
    ("messages", [
        [USER],
        [{"role": "system", "content": "x"}, USER],
        [{"role": "developer", "content": "x"}, USER],
        [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        [USER, {"role": "assistant", "content": None}, USER],
        [USER, {"role": "assistant"}, USER],
        [{**USER, "name": "ann"}],
        [{**USER, "tool_calls": []}, {**USER, "tool_calls": None}],
        [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]},
         {"role": "tool", "content": "x", "tool_call_id": "c"}],
    ], [
        [], "x", {}, [1], ["x"], [None], [{}], [{"role": "user"}], [{"content": "x"}],
        [{"role": "user", "content": None}], [{"role": "god", "content": "x"}],
        [{"role": "user", "content": 7}], [{"role": "user", "content": [{"type": "text"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "user", "content": ["x"]}], [{**USER, "name": 7}],
        [USER] * 1025,
        [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
        [{"role": "tool", "content": "x", "tool_call_id": "c1"}],
        [{"role": "user", "content": "x" * 20_000}],
    ]),
    ("chat_template_kwargs", [{}, {"a": 1, "b": "x", "c": True, "d": 0.5, "e": None}, None],
     [{"chat_template": "x"}, {"a": [1]}, {"a": {}}, {str(i): 1 for i in range(33)}, "x", []]),
    ("reasoning_effort", ["low", None], [7, "x" * 33]),
    ("add_generation_prompt", [True, False, None], [1, "yes"]),
    ("continue_final_message", [False, None], [1, "yes", True]),  # true needs an assistant's
    ("tools", [[], None, [{"type": "function", "function": {"name": "f"}}]],
     [{}, ["f"], [{"type": "function"}], [{"type": "function", "function": {"name": "f g"}}]]),
    ("tool_choice", ["none", "auto", None], ["required", {"type": "function"}, "any", 1]),
    ("parallel_tool_calls", [True, False, None], [1, "yes"]),
    ("functions", [[], None], [[{"name": "f"}]]),
    ("store", [False, None], [True]),
    ("metadata", [{}, None], [{"a": "b"}]),
    ("service_tier", ["auto", "default", None], ["flex"]),
    ("prediction", [None], [{"type": "content", "content": "x"}]),
    ("modalities", [["text"], None], [["text", "audio"]]),
    ("echo", [False, None], [True]),
    ("best_of", [1, None], [2]),
    ("suffix", ["", None], ["x"]),
]  # fmt: skip


async def ask(served: Served, route: str, fields: dict[str, Any]) -> Any:
    base: dict[str, Any] = {"max_tokens": 3}
    if route == "chat":
        base["messages"] = [USER]
        url = "/v1/chat/completions"
    else:
        base["prompt"] = "x"
        url = "/v1/completions"
    if "max_completion_tokens" in fields:
        base["max_tokens"] = 3
    return await served.client.post(url, json={**base, **fields})


def cases() -> list[Any]:
    rows = [(route, *row) for route in ("completions", "chat") for row in RANGES]
    rows += [("completions", *row) for row in COMPLETIONS]
    rows += [("chat", *row) for row in CHAT]
    return [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in rows]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Served, ScriptedRunner, list[Submit]]]:
    """One app for the whole table, and every Submit that reached its engine as a frame."""
    async with serve_script(tmp_path_factory.mktemp("shared"), "abcdef") as (served, runner):
        sent: list[Submit] = []
        add = served.core.add

        def check_frame(submit: Submit) -> None:
            """The real engine gets it as a frame."""
            (body,) = codec.FrameBuffer().feed(codec.encode(submit))
            assert codec.decode_to_engine(body) == submit
            sent.append(submit)
            add(submit)

        served.core.add = check_frame  # type: ignore[method-assign]
        yield served, runner, sent


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("route", "field", "good", "bad"), cases())
async def test_a_field_takes_its_range_and_nothing_else(
    shared: tuple[Served, ScriptedRunner, list[Submit]],
    route: str,
    field: str,
    good: list[Any],
    bad: list[Any],
) -> None:
    served, runner, sent = shared
    sent.clear()
    for value in good:
        response = await ask(served, route, {field: value})
        assert response.status_code == 200, (value, response.text)
        assert "x-ignored-params" not in response.headers, value
    assert len(sent) >= len(good)
    steps, num_sent = runner.num_steps, len(sent)
    for value in bad:
        response = await ask(served, route, {field: value})
        assert response.status_code == 400, (value, response.text)
        error = response.json()["error"]
        param = error["param"]
        refused(response, 400, error["code"], param)
        assert param is not None, (value, error)
        assert param.split(".")[0] in (field, "max_tokens", "prompt", "messages"), error
    assert runner.num_steps == steps
    assert len(sent) == num_sent
    nothing_left(served)


async def test_what_a_request_asks_is_what_the_engine_is_told(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abcdef") as (served, _):
        sent: list[Submit] = []
        add = served.core.add
        served.core.add = lambda s: (sent.append(s), add(s))  # type: ignore[assignment, method-assign, return-value]
        await served.complete(
            [97, 98], max_tokens=5, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, typical_p=0.8,
            repetition_penalty=1.1, presence_penalty=0.2, frequency_penalty=0.3, seed=5,
            logit_bias={"7": -100, "3": 2}, min_tokens=2, stop_token_ids=[9], priority=-3,
            cache_salt="salt", cache_prompt=False, logprobs=2, max_time=30,
        )  # fmt: skip
        (submit,) = sent
        sampling, stop = submit.sampling, submit.stop
        assert submit.prompt_token_ids == [97, 98]
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 7)
        assert (sampling.min_p, sampling.typical_p, sampling.seed) == (0.1, 0.8, 5)
        assert sampling.repetition_penalty == 1.1
        assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.2, 0.3)
        assert sampling.logit_bias == ((3, 2.0), (7, -100.0))
        assert (stop.max_tokens, stop.min_tokens, stop.stop_token_ids) == (5, 2, (9,))
        assert (stop.end_token_ids, stop.deadline_s) == ((END_ID,), 30)
        assert (submit.priority, submit.use_prefix_cache) == (-3, False)
        assert submit.cache_salt == cache_salt(submit.tenant, "salt")
        assert submit.output.logprobs == 2


async def test_without_fields_the_models_defaults_hold_and_a_request_overrides_them(
    tmp_path: Path,
) -> None:
    generation = {"temperature": 0.7, "top_k": 40, "repetition_penalty": 1.2}
    async with serve_script(tmp_path, "abc", generation=generation) as (served, _):
        sent: list[Submit] = []
        add = served.core.add
        served.core.add = lambda s: (sent.append(s), add(s))  # type: ignore[assignment, method-assign, return-value]
        await served.complete("x")
        await served.complete("x", temperature=0, top_k=-1, repetition_penalty=1)
        of = [(s.sampling.temperature, s.sampling.top_k, s.sampling.repetition_penalty)
              for s in sent]  # fmt: skip
        assert of == [(0.7, 40, 1.2), (0.0, 0, 1.0)]
        assert sent[0].stop.max_tokens == 16
        assert sent[0].stop.deadline_s == 600


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
        ({"min_tokens": 4, "max_tokens": 3}, "min_tokens"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": ["x"] * 256, "n": 3}, "n"),
    ],
)
async def test_fields_that_do_not_go_together_are_refused(
    tmp_path: Path, fields: dict[str, Any], param: str
) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        refused(await ask(served, "completions", fields), 400, "invalid_value", param)
        nothing_left(served)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"include_progress": 1}, "stream_options.include_progress"),
        ({"include_usage": 1}, "stream_options.include_usage"),
        ("x", "stream_options"),
        ([], "stream_options"),
    ],
)
async def test_stream_options_are_checked(tmp_path: Path, options: Any, param: str) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        response = await served.complete(stream=True, stream_options=options)
        refused(response, 400, "invalid_value", param)


async def test_null_and_false_stream_options_ask_for_nothing(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        options = {"include_usage": None, "include_progress": False}
        response = await served.complete(stream=True, stream_options=options)
        assert response.status_code == 200
        assert "usage" not in response.text


@pytest.mark.parametrize("route", ["completions", "chat"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (name, bad[0])
        for name, _, bad in RANGES
        if name in ("lora", "adapter")
    ],
)  # fmt: skip
async def test_what_is_known_and_not_offered_is_said_so(
    tmp_path: Path, route: str, field: str, value: Any
) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        refused(await ask(served, route, {field: value}), 400, "unsupported_parameter", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, bad[0]) for name, _, bad in CHAT[10:] if bad],
)
async def test_what_chat_does_not_offer_is_said_so(tmp_path: Path, field: str, value: Any) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        refused(await ask(served, "chat", {field: value}), 400, "unsupported_parameter", field)


# --- unknown fields ------------------------------------------------------------------------------


async def test_unknown_fields_are_accepted_and_named(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        for response in (
            await served.complete(zoo=1, **{"bad name\r\nX-Evil: é": 2}),
            await served.complete(zoo=1, stream=True, **{"bad name\r\nX-Evil: é": 2}),
        ):
            assert response.status_code == 200
            assert response.headers["x-ignored-params"] == "zoo,bad_name__X-Evil___"
            assert "x-evil" not in response.headers


async def test_at_most_twenty_ignored_names_are_given(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        response = await served.complete(**{f"f{i}" + "x" * 100: i for i in range(30)})
        names = response.headers["x-ignored-params"].split(",")
        assert len(names) == 20
        assert all(len(name) <= 64 for name in names)


async def test_unknown_fields_inside_messages_and_options_are_named_too(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        response = await served.client.post(
            "/v1/chat/completions",
            json={
                "messages": [{**USER, "mood": 1}, {**USER, "mood": 2, "refusal": None}],
                "stream": True, "stream_options": {"include_colour": True}, "max_tokens": 3,
            },
        )  # fmt: skip
        assert response.status_code == 200, response.text
        assert response.headers["x-ignored-params"] == "stream_options.include_colour,messages.mood"


async def test_strict_refuses_unknown_fields(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        refused(await served.complete(strict=True, zoo=1), 400, "unknown_parameter", "zoo")
        refused(await served.chat(strict=True, zoo=1), 400, "unknown_parameter", "zoo")
        assert (await served.complete(strict=True, zoo=None)).status_code == 200


async def test_messages_name_the_limit_in_plain_words(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        for fields, words in (
            ({"top_p": 1.4}, "top_p must be between 0 and 1; got 1.4"),
            ({"n": "3"}, "n must be an integer; got a string"),
            ({"temperature": True}, "temperature must be a number; got a boolean"),
            ({"stream": 1}, "stream must be a boolean; got an integer"),
            ({"user": 7}, "user must be a string; got an integer"),
            ({"user": "u" * 257}, "user may have at most 256 characters"),
            ({"cache_salt": ""}, "cache_salt must have at least 1 character"),
            ({"stop_token_ids": 5}, "stop_token_ids must be an array; got an integer"),
            ({"stop_token_ids": [5] * 257}, "stop_token_ids may hold at most 256 entries"),
            ({"stream": True, "stream_options": 5},
             "stream_options must be an object; got an integer"),
            ({"top_k": 1.5}, "top_k must be an integer; got a number"),
            ({"typical_p": 0}, "typical_p must be more than 0 and at most 1; got 0"),
            ({"top_k": -2}, "top_k must be at least -1; got -2"),
        ):  # fmt: skip
            response = await served.complete(**fields)
            assert response.json()["error"]["message"] == words
        response = await served.client.post("/v1/chat/completions", json={"messages": []})
        assert response.json()["error"]["message"] == "messages must hold at least 1 entry"
        response = await served.client.post("/v1/chat/completions", json={"messages": [3]})
        assert response.json()["error"]["message"] == "messages.0 must be an object; got an integer"
        roles = [{"role": "god", "content": "x"}]
        response = await served.client.post("/v1/chat/completions", json={"messages": roles})
        assert response.json()["error"]["message"] == (
            "messages.0.role must be 'system', 'developer', 'user', 'assistant' or 'tool'; "
            "got a string"
        )


async def test_at_most_five_problems_are_listed(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        bad = {"top_p": 2, "n": 0, "seed": "x", "min_p": 3, "user": 1, "top_k": -5, "echo": 1}
        response = await served.complete(**bad)
        assert response.json()["error"]["message"].count(";") >= 5
        assert sum(name in response.text for name in bad) <= 6
