"""/v1/score_choices, /v1/perplexity: shapes, numbers, refusals."""

import math
from pathlib import Path
from typing import Any

import pytest

from shoal.server.api.scoring.perplexity import make_windows
from tests.fakes.text_folder import END_ID
from tests.http.building import Served, logprob_at, nothing_left, refused, serve_script


async def score(served: Served, **body: Any) -> Any:
    return await served.client.post("/v1/score_choices", json=body)


async def perplexity(served: Served, **body: Any) -> Any:
    return await served.client.post("/v1/perplexity", json=body)


def sum_at(text: str, start: int) -> float:
    return sum(logprob_at(ord(char), start + i) for i, char in enumerate(text))


async def test_each_choice_has_its_log_probability_and_rank(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        choices = ["ab", "c", "zzz"]
        answer = (await score(served, prompt="The sky", choices=choices)).json()
        found = answer["choices"]
        wanted = [sum_at(choice, 7) for choice in choices]
        assert [choice["logprob"] for choice in found] == pytest.approx(wanted)
        assert [choice["tokens"] for choice in found] == [2, 1, 3]
        by_rank = sorted(found, key=lambda choice: choice["rank"])
        assert [c["index"] for c in by_rank] == sorted(range(3), key=lambda i: -wanted[i])
        assert answer["usage"]["prompt_tokens"] == 7 * 3 + 6
        nothing_left(served)


async def test_the_prompt_is_computed_once(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        prompt = "The quick brown fox jumps over"  # 30 tokens, 7 whole blocks of 4
        answer = (await score(served, prompt=prompt, choices=[" a", " b", " c"])).json()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 2 * 28
        again = (await score(served, prompt=prompt, choices=[" a", " b", " c"])).json()
        assert again["choices"] == answer["choices"]
        salted = await score(served, prompt=prompt, choices=[" a"], cache_prompt=False)
        assert (
            salted.json()["choices"][0]["token_logprobs"] == answer["choices"][0]["token_logprobs"]
        )
        assert salted.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


async def test_a_score_is_normalized_on_request(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        body = {"prompt": "a", "choices": ["ab", "é"]}
        plain = (await score(served, **body)).json()["choices"]
        for normalize in ("tokens", "bytes"):  # a token is a byte here
            found = (await score(served, **body, normalize=normalize)).json()["choices"]
            assert found[0]["logprob"] == pytest.approx(plain[0]["logprob"] / 2)


async def test_spaces_at_the_end_of_the_prompt_belong_to_the_choices(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        there = (await score(served, prompt="sky is", choices=[" blue"])).json()["choices"]
        here = (await score(served, prompt="sky is ", choices=["blue"])).json()["choices"]
        assert here == there
        ids = await score(served, prompt=list(b"sky is"), choices=[list(b" blue")])
        assert ids.json()["choices"] == there
        empty = (await score(served, prompt="", choices=["b"])).json()["choices"][0]
        assert empty["token_logprobs"] == pytest.approx([logprob_at(ord("b"), 1)])


async def test_greedy_is_what_the_model_would_write(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        best = [max(range(261), key=lambda i: (logprob_at(i, at), -i)) for at in (2, 3)]
        found = await score(served, prompt=[1, 2], choices=[best, [best[0], 5]])
        assert [choice["is_greedy"] for choice in found.json()["choices"]] == [True, False]


async def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x", max_model_len=64) as (served, _):
        good = {"prompt": "a", "choices": ["b"]}
        for change, code, param in [
            ({"choices": []}, "invalid_value", "choices"),
            ({"choices": [""]}, "invalid_value", "choices"),
            ({"choices": ["b"] * 257}, "invalid_value", "choices"),
            ({"choices": [[9999]]}, "invalid_value", "choices"),
            ({"prompt": [1], "choices": ["b"]}, "invalid_value", "choices"),
            ({"normalize": "words"}, "invalid_value", "normalize"),
            ({"choices": ["b" * 64]}, "context_length_exceeded", "prompt"),
            ({"temperature": 1, "strict": True}, "unknown_parameter", "temperature"),
        ]:
            refused(await score(served, **{**good, **change}), 400, code, param)
        refused(await score(served, prompt="a"), 400, "missing_required_parameter", "choices")
        refused(await score(served, **good, model="no"), 404, "model_not_found", "model")
        ignored = await score(served, **good, temperature=1)
        assert ignored.headers["x-ignored-params"] == "temperature"
        nothing_left(served)


async def test_perplexity_is_that_of_the_log_probabilities(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x") as (served, _):
        answer = (await perplexity(served, input="abcé")).json()
        nll = -sum(logprob_at(byte, i) for i, byte in enumerate("abcé".encode()) if i)
        assert answer["nll"] == pytest.approx(nll)
        assert answer["tokens"] == 4
        assert answer["perplexity"] == pytest.approx(math.exp(nll / 4))
        assert answer["bits_per_byte"] == pytest.approx(nll / math.log(2) / 4)
        several = (await perplexity(served, input=["abcé", "xyz"])).json()
        assert several["data"][0] == {"index": 0, **{name: answer[name] for name in (
            "nll", "tokens", "perplexity", "bits_per_byte")}}  # fmt: skip
        assert several["tokens"] == 6
        assert several["nll"] == pytest.approx(nll + several["data"][1]["nll"])
        ids = (await perplexity(served, input=list("abcé".encode()))).json()
        assert ids["nll"] == answer["nll"]
        special = (await perplexity(served, input=[97, END_ID])).json()
        assert special["bits_per_byte"] is None


async def test_a_long_text_is_read_in_windows(tmp_path: Path) -> None:
    async with serve_script(tmp_path, "x", max_model_len=64) as (served, _):
        answer = (await perplexity(served, input="b" * 200, stride=16)).json()
        assert answer["tokens"] == 199
        half = (await perplexity(served, input="b" * 200)).json()
        assert half["tokens"] == 199
        none = (await perplexity(served, input="b" * 200, stride=64)).json()
        assert none["tokens"] == 196
        refused(await perplexity(served, input="bb", stride=65), 400, "invalid_value", "stride")
        refused(await perplexity(served, input="b"), 400, "invalid_value", "input")
        refused(await perplexity(served, input=["bb", ""]), 400, "invalid_value", "input")
        many = await perplexity(served, input="b" * 2000, stride=1)
        refused(many, 400, "invalid_value", "input")
        nothing_left(served)


def test_windows_report_every_token_once() -> None:
    for longest, stride in [(8, 3), (8, 8), (8, 4), (50, 25), (2, 1)]:
        token_ids = list(range(30))
        reported = [
            token_id
            for window in make_windows(token_ids, longest, stride)
            for token_id in window.token_ids[window.logprobs_start :]
        ]
        assert reported == token_ids
