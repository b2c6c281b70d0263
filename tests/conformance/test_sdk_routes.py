"""Every call of the SDK against `shoal serve` as a process."""

import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from shoal.client import (
    AuthenticationFailed,
    BadRequest,
    Client,
    Conflict,
    ModelNotFound,
    NotFound,
    ShuttingDown,
    tool,
)
from tests.conformance.served import ServerProcess, serve_process, write_tiny_llama

MESSAGES = [{"role": "user", "content": "Which colour is the sky?"}]


class Answer(BaseModel):
    colour: Literal["red", "green", "blue"]
    certain: bool


@tool
def paint(colour: Literal["red", "green", "blue"], twice: bool) -> str:
    """Paints the wall."""
    return f"painted {colour} {twice}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = write_tiny_llama(tmp_path_factory.mktemp("sdk") / "tiny", num_layers=6)
    with serve_process(folder, "--admin-key", "secret", "--dtype", "float32") as server:
        yield server


@pytest.fixture
def client(served: ServerProcess) -> Iterator[Client]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a field that the server ignores
        with Client(served.url, timeout=60) as client:
            yield client


@pytest.fixture
def admin(client: Client) -> Client:
    return client.with_options(api_key="secret")


def test_classes_are_parsed_streamed_or_not(client: Client) -> None:
    plain = client.chat.parse(MESSAGES, Answer, seed=1, n=2)
    assert all(isinstance(choice.parsed, Answer) for choice in plain.choices)
    stream = client.chat.parse(MESSAGES, Answer, seed=1, n=2, stream=True)
    assert [choice.parsed for choice in stream.final().choices] == [
        choice.parsed for choice in plain.choices
    ]
    assert isinstance(client.completions.parse("The sky is", Answer, max_tokens=99).parsed, Answer)
    kinds = client.completions.create("x", response_format=list[Answer], max_tokens=1)
    assert kinds.finish_reason == "length"


def test_other_forms_of_text(client: Client) -> None:
    for forms, allowed in (
        ({"choice": ["yes", "no"]}, {"yes", "no"}),
        ({"regex": "[ab]{2}"}, {"aa", "ab", "ba", "bb"}),
        ({"grammar": 'start: "one" | "two"'}, {"one", "two"}),
        ({"json": {"type": "boolean"}}, {"true", "false"}),
    ):
        form: Any = forms
        assert client.completions.create("x", structured_outputs=form).text in allowed
        assert client.chat.create(MESSAGES, structured_outputs=form).text in allowed


def test_tools_are_called(client: Client) -> None:
    plain = client.chat.create(MESSAGES, tools=[paint], tool_choice="required", seed=3)
    assert plain.finish_reason == "tool_calls"
    calls = [(call.function.name, call.parse_arguments()) for call in plain.tool_calls]
    assert calls
    assert all(name == "paint" and set(given) == {"colour", "twice"} for name, given in calls)
    whole = client.chat.create(
        MESSAGES, tools=[paint], tool_choice="required", seed=3, stream=True
    ).final()
    assert [(call.function.name, call.parse_arguments()) for call in whole.tool_calls] == calls
    assert all(call.id.startswith("call_") for call in whole.tool_calls)
    run = client.chat.run_tools(
        MESSAGES, tools=[paint], tool_choice="required", parallel_tool_calls=False, max_tokens=400,
        seed=3,
    )  # fmt: skip
    assert run.completions[0].tool_calls
    (told,) = [m for m in run.messages[:3] if isinstance(m, dict) and m["role"] == "tool"]
    assert told["content"].startswith("painted ")
    assert client.tokenize(messages=run.messages, tools=[paint]).count > 0


def test_choices_are_scored_as_completions_say(client: Client) -> None:
    choices = [" blue", " green and grey"]
    scores = client.score_choices("The sky is", choices)
    assert len(scores.choices) == 2
    for choice, score in zip(choices, scores.choices, strict=True):
        whole = client.completions.create(
            f"The sky is{choice}", echo=True, logprobs=1, max_tokens=0
        )
        logprobs = whole.choices[0].logprobs
        assert logprobs is not None
        assert score.tokens == client.tokenize(choice, add_special_tokens=False).count
        expected = sum(value or 0.0 for value in logprobs.token_logprobs[-score.tokens :])
        assert math.isclose(score.logprob, expected, abs_tol=1e-3)
    assert scores.choices[scores.best].rank == 1


def test_perplexity_is_that_of_the_log_probabilities(client: Client) -> None:
    text = "The sky is blue and the sea is green."
    found = client.perplexity(text)
    whole = client.completions.create(text, echo=True, logprobs=1, max_tokens=0)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    nll = -sum(value for value in logprobs.token_logprobs if value is not None)
    assert math.isclose(found.nll, nll, rel_tol=1e-4)
    assert math.isclose(found.perplexity, math.exp(found.nll / found.tokens), rel_tol=1e-6)
    both = client.perplexity([text, "x y z"], stride=512)
    assert len(both.data) == 2
    assert math.isclose(both.data[0].nll, found.nll, rel_tol=1e-6)


def test_a_decoder_has_no_embeddings(client: Client) -> None:
    with pytest.raises(BadRequest) as caught:
        client.embeddings.create("x")
    assert caught.value.code == "not_supported_by_model"


def test_a_running_request_can_be_cancelled(client: Client, served: ServerProcess) -> None:
    stream = client.completions.create(
        "x", stream=True, max_tokens=4000, ignore_eos=True, temperature=0
    )
    next(stream)
    assert stream.request_id is not None
    cancelled = client.cancel(stream.request_id)
    assert cancelled.cancelled
    whole = stream.final()
    assert (whole.finish_reason, whole.choices[0].stop_reason) == ("length", "cancelled")
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens < 4000
    with pytest.raises(NotFound):
        client.cancel(stream.request_id)
    served.wait_idle()


def test_usage_adds_up(client: Client, admin: Client) -> None:
    def used(of: Client) -> tuple[int, int]:
        rows = of.usage().data
        return sum(row.requests for row in rows), sum(row.completion_tokens for row in rows)

    before = used(client)
    answer = client.completions.create("x", max_tokens=5, ignore_eos=True)
    assert answer.usage is not None
    deadline = time.monotonic() + 5
    while used(client)[0] == before[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert used(client) == (before[0] + 1, before[1] + 5)
    assert used(admin)[0] >= used(client)[0]


def test_everything_that_can_be_included(client: Client) -> None:
    items: Any = ["seed", "timings", "usage_cost", "sampling", "token_ids", "trace", "queue"]
    plain = client.completions.create("x", include=items, max_tokens=4, seed=5, ignore_eos=True)
    stream = client.completions.create(
        "x", include=items, max_tokens=4, seed=5, ignore_eos=True, stream=True
    )
    whole = stream.final()
    for result in (plain, whole):
        ext = result.ext
        assert ext is not None
        assert ext.seed == [5]
        assert ext.usage_cost is not None
        assert (ext.usage_cost.cpu_seconds or 0) > 0
        assert (ext.usage_cost.joules_est or 0) > 0
        assert ext.queue is not None
        assert (ext.queue.position_at_arrival or 0) >= 0
        assert ext.token_ids is not None
        assert len(ext.token_ids[0]) == 4
        assert ext.trace is not None
        assert [token.id for token in ext.trace] == ext.token_ids[0]
        assert all(token.rank is not None and token.entropy is not None for token in ext.trace)
        assert ext.trace[0].lens
        assert result.timings.ttft_ms is not None
    assert plain.ext is not None
    assert whole.ext is not None
    assert plain.ext.trace == whole.ext.trace
    chat = client.chat.create(MESSAGES, include=items, max_tokens=4, seed=5)
    assert chat.ext is not None
    assert chat.ext.trace


def test_what_truncation_dropped_is_reported(client: Client) -> None:
    cut = client.completions.create("a b c d e f", truncate_prompt_tokens=2, max_tokens=1)
    assert cut.usage is not None
    assert cut.usage.prompt_tokens == 2
    assert cut.ext is not None
    assert cut.ext.truncated == [client.tokenize("a b c d e f").count - 2]


def test_every_sampling_option_is_taken(client: Client) -> None:
    taken = client.completions.create(
        "x", max_tokens=8, temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, typical_p=0.9,
        repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1,
        no_repeat_ngram_size=3, dry_multiplier=0.8, dry_base=1.75, dry_allowed_length=2,
        dry_sequence_breakers=["\n"], stop_on_loop=True, min_tokens=1, logit_bias={"a": -5},
        allowed_token_ids=list(range(40, 120)), stop_token_ids=[3], seed=7, priority=1,
        max_time=50.0, cache_salt="s", user="me", strict=True,
    )  # fmt: skip
    assert taken.ignored_params == ()
    beams = client.completions.create("x", use_beam_search=True, n=2, max_tokens=4, temperature=0)
    assert len(beams.choices) == 2


def test_the_state_of_the_server(client: Client) -> None:
    client.completions.create("x", max_tokens=1)
    assert client.version().models["tiny"]
    assert client.load().models["tiny"].waiting == 0
    assert "shoal_requests_total{" in client.metrics().text
    assert client.health().ready
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_models_come_and_go(client: Client, admin: Client, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "second")
    with pytest.raises(AuthenticationFailed):
        client.with_options(api_key="wrong").admin.models.load("second", str(folder))
    admin.admin.models.load("second", str(folder))
    deadline = time.monotonic() + 60
    while not client.models.retrieve("second").ready:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.completions.create("x", model="second", max_tokens=2).model == "second"
    with pytest.raises(Conflict):
        admin.admin.models.load("second", str(folder))
    admin.admin.models.unload("second", drain=True)
    with pytest.raises(ModelNotFound):
        client.completions.create("x", model="second", max_tokens=2)


def test_the_cache_forgets(client: Client, admin: Client) -> None:
    prompt = "Once upon a time there was a sky, and it was blue. " * 8

    def cached() -> int:
        usage = client.completions.create(prompt, max_tokens=1).usage
        assert usage is not None
        return usage.cached_tokens

    cached()
    assert cached() > 0
    admin.admin.cache.reset()
    assert cached() == 0


def test_draining_refuses_new_work_and_can_be_undone(client: Client, admin: Client) -> None:
    once = client.with_options(max_retries=0)
    with once.completions.create("x", max_tokens=400, ignore_eos=True, stream=True) as stream:
        chunks = iter(stream)
        next(chunks)
        admin.admin.drain()
        try:
            with pytest.raises(ShuttingDown):
                once.completions.create("x", max_tokens=1)
            assert not client.health().ready
            *_, last = chunks
            assert last.choices[0].finish_reason == "length"
        finally:
            admin.admin.drain(False)
    assert once.completions.create("x", max_tokens=1).text is not None
    client.wait_until_ready(5.0)
