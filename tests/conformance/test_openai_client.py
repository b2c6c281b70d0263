"""The real `openai` client against a real server process."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conformance.served import CONTEXT, ServerProcess

LONG = {"max_tokens": CONTEXT - 96, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def user(content: str) -> Any:
    return [{"role": "user", "content": content}]


# --- calls ---------------------------------------------------------------------------------------


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert model.object == "model"
    assert client.models.retrieve("tiny").owned_by == "local"


def test_a_completion(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="Once", max_tokens=8, logprobs=2, n=2,
                                       temperature=0, echo=True)  # fmt: skip
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].text == answer.choices[1].text
    assert answer.choices[0].text.startswith("Once")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4
    shown = answer.choices[0].logprobs
    assert shown is not None
    assert shown.tokens is not None
    assert shown.text_offset is not None
    assert len(shown.tokens) == len(shown.text_offset)
    assert answer.system_fingerprint


def test_a_streamed_completion_equals_the_plain_one(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "Once", "max_tokens": 40, "seed": 5}
    plain = client.completions.create(**asked)
    stream = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == plain.choices[0].text
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=user("Hi"), max_tokens=8, logprobs=True, top_logprobs=3
    )
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content[0].top_logprobs) == 3
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None


def test_a_streamed_chat_equals_the_plain_one(client: OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": user("Hi"), "max_tokens": 30, "seed": 4}
    plain = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == plain.choices[0].finish_reason


def test_the_stream_helper_builds_the_whole_answer(client: OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": user("Hi"), "max_tokens": 20, "seed": 4}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    asked["stop"] = whole[len(whole) // 2 :][
        :1
    ]  # the helper takes an answer cut short for an error
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(pieces) == final.choices[0].message.content
    assert final.usage is not None
    plain = client.chat.completions.create(**asked)
    assert final.choices[0].message.content == plain.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_the_request_id_is_at_hand(client: OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="x", max_tokens=1)
    assert answer._request_id
    given = client.completions.create(
        model="tiny", prompt="x", max_tokens=1, extra_headers={"X-Request-Id": "mine-1"}
    )
    assert given._request_id == "mine-1"
    raw = client.completions.with_raw_response.create(model="tiny", prompt="x", max_tokens=1)
    assert raw.headers["x-request-id"] == raw.request_id


def test_fields_of_ours_go_through_extra_body(client: OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model="tiny",
        prompt="x",
        max_tokens=2,
        extra_body={"top_k": 1, "include": ["seed"], "zoo": 1},
    )
    assert raw.headers["x-ignored-params"] == "zoo"
    answer: Any = raw.parse()
    assert len(answer.ext["seed"]) == 1


# --- errors --------------------------------------------------------------------------------------


def test_a_bad_value_is_a_bad_request_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x", top_p=1.4)
    error = caught.value
    assert (error.status_code, error.code, error.param, error.type) == (
        400, "invalid_value", "top_p", "invalid_request_error",
    )  # fmt: skip
    assert error.request_id
    assert "top_p must be between 0 and 1; got 1.4" in error.message


def test_too_long_a_prompt_is_a_bad_request_error_in_known_words(client: OpenAI) -> None:
    with pytest.raises(
        openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens"
    ) as e:
        client.completions.create(model="tiny", prompt="x" * CONTEXT, max_tokens=1)
    assert e.value.code == "context_length_exceeded"


def test_an_unknown_model_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nope", messages=user("Hi"))
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_a_route_that_is_not_offered_is_a_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(model="tiny", input="x")


def test_a_model_that_makes_no_embeddings_says_so(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="tiny", input="x")
    assert caught.value.code == "not_supported_by_model"


def test_tools_of_other_kinds_are_refused_in_plain_words(client: OpenAI) -> None:
    tool: Any = {"type": "custom", "custom": {"name": "f"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=user("Hi"), tools=[tool])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools.0.type")


class Crowd:
    """One request that fills the queue of 40 places until it is let go."""

    def __init__(self, client: OpenAI) -> None:
        self._stream = client.completions.create(
            model="tiny", prompt=["a", "b", "c"], n=16, stream=True, **LONG
        )
        next(iter(self._stream))

    def leave(self) -> None:
        self._stream.close()


def test_a_full_server_is_an_internal_server_error_with_503(
    server: ServerProcess, client: OpenAI
) -> None:
    server.wait_idle()
    crowd = Crowd(client)
    try:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="tiny", prompt="x", stream=stream)
            assert caught.value.status_code == 503
            assert caught.value.code == "server_is_overloaded"
            assert 1 <= int(caught.value.response.headers["retry-after"]) <= 120
    finally:
        crowd.leave()
    server.wait_idle()


def test_the_clients_retries_get_through_when_there_is_room(
    server: ServerProcess, client: OpenAI
) -> None:
    server.wait_idle()
    crowd = Crowd(client)
    threading.Timer(0.3, crowd.leave).start()
    patient = client.with_options(max_retries=8)
    answer = patient.completions.with_raw_response.create(model="tiny", prompt="x", max_tokens=1)
    assert answer.retries_taken > 0
    assert answer.parse().choices


def test_a_closed_stream_frees_its_sequence(server: ServerProcess, client: OpenAI) -> None:
    server.wait_idle()
    before = server.metric('shoal_cancelled_total{model="tiny",reason="disconnect"}')
    stream = client.completions.create(model="tiny", prompt="x", stream=True, **LONG)
    next(iter(stream))
    assert server.running() == 1
    stream.close()
    server.wait_idle()
    assert server.metric('shoal_cancelled_total{model="tiny",reason="disconnect"}') == before + 1


def test_leaving_the_loop_frees_the_sequence(server: ServerProcess, client: OpenAI) -> None:
    server.wait_idle()
    with client.chat.completions.create(
        model="tiny", messages=user("x"), stream=True, **LONG
    ) as stream:
        for _ in stream:
            break
    server.wait_idle()


# --- many at once --------------------------------------------------------------------------------


async def _texts(server: ServerProcess, prompts: list[str]) -> list[str]:
    """Streamed greedy answers, asked for at the same time."""
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:

        async def one(prompt: str) -> str:
            stream = await client.completions.create(
                model="tiny", prompt=prompt, temperature=0, stream=True, max_tokens=460,
                extra_body={"ignore_eos": True},
            )  # fmt: skip
            return "".join([chunk.choices[0].text async for chunk in stream])

        return list(await asyncio.gather(*map(one, prompts)))


def test_32_clients_are_one_batch_and_each_gets_what_it_gets_alone(server: ServerProcess) -> None:
    server.wait_idle()
    prompts = [f"Client {number}: " + "tell " * (number % 7) for number in range(32)]
    alone = [asyncio.run(_texts(server, [prompt]))[0] for prompt in (prompts[0], prompts[31])]

    def steps(up_to: str) -> float:
        return server.metric(f'shoal_batch_size_bucket{{le="{up_to}",model="tiny"}}')

    before, before_large = steps("+Inf"), steps("+Inf") - steps("16.0")
    together = asyncio.run(_texts(server, prompts))
    large = steps("+Inf") - steps("16.0") - before_large
    assert large / (steps("+Inf") - before) > 0.5
    assert large > 50
    assert [together[0], together[31]] == alone
    assert len(set(together)) == 32


# --- the process ---------------------------------------------------------------------------------


def test_the_http_process_has_not_loaded_torch(server: ServerProcess, client: OpenAI) -> None:
    """After it has served both endpoints."""
    client.completions.create(model="tiny", prompt="x", max_tokens=2)
    client.chat.completions.create(model="tiny", messages=user("x"), max_tokens=2)
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "libpython" in maps or "python3" in maps
    assert "torch" not in maps


def test_the_server_listens_on_one_loopback_port_only(server: ServerProcess) -> None:
    listening = set()
    for pid in (server.process.pid, server.engine_pid):
        inodes = set()
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(str(fd.readlink()).removeprefix("socket:[").removesuffix("]"))
            except OSError:
                continue  # closed meanwhile
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                local, state, inode = (line.split()[i] for i in (1, 3, 9))
                if state == "0A" and inode in inodes:
                    listening.add(local)
    port = int(server.url.rpartition(":")[2])
    assert listening == {f"0100007F:{port:04X}"}


def test_health_and_version_tell_what_serves(server: ServerProcess) -> None:
    assert server.get("/readyz").json()["status"] == "ok"
    (model,) = server.get("/version").json()["models"].values()
    assert model["dtype"] == "float32"
    began = time.monotonic()
    assert server.get("/livez").status_code == 200
    assert time.monotonic() - began < 1
