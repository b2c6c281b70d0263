"""Completions: prompts of all kinds, choices, stops, echo, log-probs, usage, ext."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_app import serve
from tests.fakes.text_folder import END_ID
from tests.http.building import (
    logprob_at,
    nothing_left,
    plain_texts,
    records,
    refused,
    serve_script,
)

SKY = [ord(c) for c in "The"]


async def test_the_answer_has_the_documented_shape(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        response = await served.complete("xy", max_tokens=2)
        body = response.json()
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-request-id"]
        for name in ("x-queue-ms", "x-prefill-ms", "x-decode-ms"):
            assert float(response.headers[name]) >= 0
        assert body.pop("id").startswith("cmpl-")
        assert body.pop("created") > 1_700_000_000
        assert body.pop("system_fingerprint").startswith("v")
        assert body == {
            "object": "text_completion",
            "model": "tiny",
            "choices": [
                {"index": 0, "text": "ab", "logprobs": None, "finish_reason": "length",
                 "stop_reason": None}
            ],
            "usage": {
                "prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }  # fmt: skip
        nothing_left(served)


def echo_prompt(prompt: list[int], sampling: Any) -> list[int]:
    """The model says its prompt, so that choices can be told apart."""
    return [*b"<", *prompt, *b">"]


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["<ab>"]),
        (["ab", "c"], ["<ab>", "<c>"]),
        ([97, 98], ["<ab>"]),
        ([[97], [98, 99]], ["<a>", "<bc>"]),
        ([97.0], ["<a>"]),
    ],
)
async def test_prompts_of_all_four_kinds(tmp_path: Path, prompt: Any, texts: list[str]) -> None:
    async with serve_script(tmp_path, echo_prompt) as (served, _):
        response = await served.complete(prompt)
        assert plain_texts(response) == dict(enumerate(texts))
        assert response.json()["usage"]["prompt_tokens"] == sum(len(t) - 2 for t in texts)


async def test_choices_are_ordered_by_prompt_then_sample(tmp_path: Path) -> None:
    async with serve_script(tmp_path, echo_prompt) as (served, _):
        response = await served.complete(["a", "b"], n=2)
        assert plain_texts(response) == {0: "<a>", 1: "<a>", 2: "<b>", 3: "<b>"}
        usage = response.json()["usage"]
        assert usage["prompt_tokens"] == 2  # each prompt once
        assert usage["completion_tokens"] == 4 * 4  # every candidate, end token included


async def test_an_empty_prompt_starts_from_the_start_token(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        response = await served.complete("", return_token_ids=True)
        assert response.json()["choices"][0]["prompt_token_ids"] == [END_ID]


async def test_an_empty_prompt_without_a_start_token_is_refused(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "abc") as (served, _):
        model = served.services.models["tiny"]
        served.services.models["tiny"] = replace(model, start_token_id=None)
        refused(await served.complete(""), 400, "invalid_value", "prompt")
        nothing_left(served)


# --- ends ----------------------------------------------------------------------------------------


async def test_the_end_token_ends_and_counts_and_is_not_shown(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        response = await served.complete("x", return_token_ids=True)
        (choice,) = response.json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("ab", "stop")
        assert choice["stop_reason"] is None
        assert choice["token_ids"] == [*b"ab", END_ID]
        assert response.json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({"stop": "cd"}, "ab", "cd"),
        ({"stop": ["x", "e", "bc"]}, "a", "bc"),
        ({"stop": "cd", "include_stop_str_in_output": True}, "abcd", "cd"),
        ({"stop_token_ids": [ord("c")]}, "ab", ord("c")),
        ({"stop_token_ids": [ord("c")], "include_stop_str_in_output": True}, "abc", ord("c")),
        ({"stop": "a", "min_tokens": 2}, "abcdef", None),
        ({"stop": "c", "min_tokens": 2}, "ab", "c"),
        ({"stop": "zzz"}, "abcdef", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_stops(
    tmp_path: Path, fields: dict[str, Any], text: str, reason: Any, stream: bool
) -> None:
    async with serve_script(tmp_path, "abcdef") as (served, _):
        response = await served.complete("x", stream=stream, **fields)
        if stream:
            choices = [event["choices"][0] for event in records(response)]
            assert "".join(choice["text"] for choice in choices) == text
            last = choices[-1]
        else:
            (last,) = response.json()["choices"]
            assert last["text"] == text
        assert (last["finish_reason"], last["stop_reason"]) == ("stop", reason)
        nothing_left(served)


async def test_min_tokens_holds_the_end_token_back(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        assert plain_texts(await served.complete("x", min_tokens=5)) == {0: "ab~~~"}


async def test_ignore_eos_goes_on_to_the_length(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        response = await served.complete("x", ignore_eos=True, max_tokens=5)
        (choice,) = response.json()["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
        shown = await served.complete("x", ignore_eos=True, max_tokens=3, skip_special_tokens=False)
        assert plain_texts(shown) == {0: "ab<|endoftext|>"}


@pytest.mark.parametrize("stream", [False, True])
async def test_zero_tokens_compute_the_prompt_only(tmp_path: Path, stream: bool) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        response = await served.complete("xy", max_tokens=0, echo=True, stream=stream)
        body = records(response)[-1] if stream else response.json()
        (choice,) = body["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("xy", "length")
        nothing_left(served)


@pytest.mark.parametrize("kind", ["unfit", "fit"])
async def test_the_context_length_is_a_sharp_limit(tmp_path: Path, kind: str) -> None:
    async with serve_script(tmp_path, "ab", max_model_len=20) as (served, _):
        prompt = "x" * (16 if kind == "fit" else 17)
        response = await served.complete(prompt, max_tokens=4)
        if kind == "fit":
            assert response.status_code == 200
        else:
            refused(response, 400, "context_length_exceeded", "prompt")
            assert "This model's maximum context length is 20 tokens" in response.text
        nothing_left(served)


# --- seeds and candidates ------------------------------------------------------------------------


async def test_the_same_seed_gives_the_same_text_and_another_another(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        texts = [plain_texts(await served.complete(seed=seed))[0] for seed in (5, 5, 6)]
        assert texts[0] == texts[1] != texts[2]


async def test_reported_seeds_give_back_each_choice(tmp_path: Path) -> None:
    """Also those of later samples, and of requests without a seed."""
    async with serve(tmp_path) as served:
        response = await served.complete(n=4, include=["seed"])
        seeds = response.json()["ext"]["seed"]
        texts = plain_texts(response)
        assert len(set(texts.values())) == 4
        for index, seed in enumerate(seeds):
            again = await served.complete(seed=seed)
            assert plain_texts(again)[0] == texts[index]


async def test_negative_seeds_are_reported_as_given(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        response = await served.complete(seed=-7, include=["seed"])
        assert response.json()["ext"] == {"seed": [-7]}


async def test_best_of_returns_the_candidates_with_the_best_mean_logprob(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        every = (await served.complete(n=5, logprobs=0, seed=3)).json()["choices"]
        best = (await served.complete(n=2, best_of=5, logprobs=0, seed=3)).json()
        means = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"]) for c in every]
        ranked = sorted(range(5), key=lambda i: -means[i])
        assert [c["text"] for c in best["choices"]] == [every[i]["text"] for i in ranked[:2]]
        assert [c["index"] for c in best["choices"]] == [0, 1]
        assert best["usage"]["completion_tokens"] == sum(
            len(c["logprobs"]["tokens"]) for c in every
        )
        quiet = (await served.complete(n=2, best_of=5, seed=3, include=["seed"])).json()
        assert [c["text"] for c in quiet["choices"]] == [c["text"] for c in best["choices"]]
        assert [c["logprobs"] for c in quiet["choices"]] == [None, None]
        for choice, seed in zip(quiet["choices"], quiet["ext"]["seed"], strict=True):
            assert plain_texts(await served.complete(seed=seed))[0] == choice["text"]


async def test_ext_holds_what_was_asked_for_and_nothing_else(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        assert "ext" not in (await served.complete()).json()
        ext = (await served.complete(include=["timings", "sampling"], top_k=3)).json()["ext"]
        assert set(ext) == {"timings", "sampling"}
        assert set(ext["timings"]) == {
            "queue_ms", "prefill_ms", "decode_ms", "ttft_ms", "tokens_per_second",
        }  # fmt: skip
        assert ext["sampling"]["top_k"] == 3
        last = records(await served.complete(include=["seed"], seed=4, stream=True))[-1]
        assert (last["choices"], last["ext"]) == ([], {"seed": [4]})


async def test_the_prefix_cache_shows_in_usage_and_can_be_refused(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        cached = []
        for fields in ({}, {}, {"cache_prompt": False}, {"cache_salt": "mine"}):
            usage = (await served.complete("x" * 33, **fields)).json()["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
            assert usage["prompt_tokens"] == 33
        assert cached == [0, 32, 0, 0]


# --- log-probs -----------------------------------------------------------------------------------


async def test_logprobs_have_four_arrays_of_equal_length(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "aé") as (served, _):
        response = await served.complete("xyz", logprobs=2)
        (choice,) = response.json()["choices"]
        shown = choice["logprobs"]
        assert choice["text"] == "aé"
        assert shown["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xa9", "<|endoftext|>"]
        assert shown["text_offset"] == [0, 1, 1, 2]
        assert [len(array) for array in shown.values()] == [4, 4, 4, 4]
        ids = [*"aé".encode(), END_ID]
        for place, (token, logprob, top) in enumerate(
            zip(shown["tokens"], shown["token_logprobs"], shown["top_logprobs"], strict=True)
        ):
            assert logprob == pytest.approx(logprob_at(ids[place], 3 + place), abs=1e-6)
            assert top[token] >= logprob
            assert 2 <= len(top) <= 3
        plain = shown["token_logprobs"][0]
        assert shown["top_logprobs"][0]["a"] == plain


async def test_zero_logprobs_show_the_chosen_token_only(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "ab") as (served, _):
        shown = (await served.complete("x", logprobs=0)).json()["choices"][0]["logprobs"]
        assert [list(top) for top in shown["top_logprobs"]] == [["a"], ["b"], ["<|endoftext|>"]]
        for top, value in zip(shown["top_logprobs"], shown["token_logprobs"], strict=True):
            assert list(top.values()) == [value]


async def test_a_logprob_is_written_the_same_in_both_places(tmp_path: Path) -> None:
    """As text, not only as a number: it is the shortest decimal of one float32."""
    async with serve_script(tmp_path, "a") as (served, _):
        text = (await served.complete("x", logprobs=0, max_tokens=1)).text
        number = text.split('"token_logprobs":[')[1].split("]")[0]
        assert f'"top_logprobs":[{{"a":{number}}}]' in text


async def test_the_scoring_call_of_evaluation_tools(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "") as (served, _):
        response = await served.complete(
            [SKY], max_tokens=1, logprobs=1, echo=True, temperature=0, seed=1234
        )
        (choice,) = response.json()["choices"]
        shown = choice["logprobs"]
        assert (choice["text"], choice["finish_reason"]) == ("The", "stop")
        assert shown["tokens"] == ["T", "h", "e", "<|endoftext|>"]
        assert shown["token_logprobs"][0] is None
        assert shown["top_logprobs"][0] is None
        assert shown["text_offset"] == [0, 1, 2, 3]
        for place, token_id in ((1, SKY[1]), (2, SKY[2]), (3, END_ID)):
            expected = logprob_at(token_id, place)
            assert shown["token_logprobs"][place] == pytest.approx(expected, abs=1e-6)
            assert shown["tokens"][place] in shown["top_logprobs"][place]
        usage = response.json()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 1)


async def test_scoring_a_batch_without_new_tokens(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "") as (served, _):
        response = await served.complete(
            [SKY, SKY[:2]], max_tokens=0, logprobs=1, echo=True, temperature=0
        )
        for choice, ids in zip(response.json()["choices"], (SKY, SKY[:2]), strict=True):
            assert choice["finish_reason"] == "length"
            assert len(choice["logprobs"]["tokens"]) == len(ids)
            assert len(choice["logprobs"]["token_logprobs"]) == len(ids)
        assert response.json()["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"n": 2, "echo": True}])
async def test_streamed_logprobs_join_to_the_plain_ones(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    async with serve_script(tmp_path, "aé日") as (served, _):
        asked = {"logprobs": 3, "return_token_ids": True, "stop": "zz", **fields}
        plain = (await served.complete("wé", **asked)).json()["choices"]
        joined: dict[int, dict[str, Any]] = {}
        for event in records(await served.complete("wé", stream=True, **asked)):
            (choice,) = event["choices"]
            so_far = joined.setdefault(choice["index"], {"text": "", "token_ids": []})
            so_far["text"] += choice["text"]
            so_far["token_ids"] += choice["token_ids"]
            for name, values in choice["logprobs"].items():
                so_far.setdefault(name, []).extend(values)
            if "prompt_token_ids" in choice:
                so_far["prompt_token_ids"] = choice["prompt_token_ids"]
        for choice in plain:
            assert joined[choice["index"]] == {
                "text": choice["text"],
                "token_ids": choice["token_ids"],
                "prompt_token_ids": choice["prompt_token_ids"],
                **choice["logprobs"],
            }


async def test_prompt_logprobs_are_a_list_per_choice(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        (choice,) = (await served.complete([SKY], prompt_logprobs=2)).json()["choices"]
        entries = choice["prompt_logprobs"]
        assert choice["logprobs"] is None
        assert entries[0] is None
        assert len(entries) == 3
        for place in (1, 2):
            own = entries[place][str(SKY[place])]
            assert own["decoded_token"] == chr(SKY[place])
            assert own["logprob"] == pytest.approx(logprob_at(SKY[place], place), abs=1e-6)
            assert 2 <= len(entries[place]) <= 3


async def test_tokens_may_be_shown_as_ids(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        response = await served.complete("x", logprobs=0, return_tokens_as_token_ids=True)
        shown = response.json()["choices"][0]["logprobs"]
        assert shown["tokens"] == [f"token_id:{ord('a')}", f"token_id:{END_ID}"]
        assert list(shown["top_logprobs"][0]) == [f"token_id:{ord('a')}"]


async def test_special_tokens_of_a_raw_prompt_are_control_and_may_be_left_out(
    tmp_path: Path,
) -> None:
    async with serve_script(tmp_path, "a") as (served, _):
        response = await served.complete("<|end|>x", return_token_ids=True)
        assert response.json()["choices"][0]["prompt_token_ids"] == [260, ord("x")]
