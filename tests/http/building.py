"""Builders for HTTP tests: a model with a script, a hand on the engine, bare ASGI calls."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shoal.protocol.messages import StepOutputs, TokenLogprobs
from shoal.protocol.params import SamplingParams
from shoal.protocol.step import StepPlan, StepResult
from tests.fakes.http_app import Served, serve, sse_events
from tests.fakes.text_folder import END_ID, VOCAB_SIZE

Script = Callable[[list[int], SamplingParams], Sequence[int]]


def says(text: str) -> Script:
    """A model that always says this and ends."""
    token_ids = list(text.encode())
    return lambda prompt, sampling: token_ids


def logprob_at(token_id: int, position: int) -> float:
    """A float32 that depends on token and position."""
    value = -((token_id * 31 + position * 17) % 97) / 10 - 0.05
    return float(struct.unpack("f", struct.pack("f", value))[0])


class ScriptedRunner:
    """A Runner that says what a script says for a prompt, then the end token for ever."""

    def __init__(self, script: Script, *, vocab_size: int = VOCAB_SIZE) -> None:
        self._script = script
        self._vocab_size = vocab_size
        self._rows: dict[int, tuple[Any, list[int]]] = {}
        self.num_steps = 0
        self.error: str | None = None
        """Error code that every row gets from now on."""

    def prepare_grammar(self, sampling: SamplingParams) -> "Future[str | None]":
        """Every grammar is ready, and none changes what the script says."""
        ready: Future[str | None] = Future()
        ready.set_result(None)
        return ready

    def expected_at_start(self, sampling: SamplingParams, shares_with: str | None) -> list[int]:
        """Nothing."""
        return []

    def forget_answers(self) -> None:
        """There is nothing to forget."""

    def run(self, plan: StepPlan) -> StepResult:
        self.num_steps += 1
        for seq_id in plan.released:
            self._rows.pop(seq_id, None)
        for new in plan.new_rows:
            self._rows[new.seq_id] = (new, list(new.token_ids))
        result = StepResult([None] * len(plan.seq_ids))
        for row, seq_id in enumerate(plan.seq_ids):
            end = plan.num_computed_tokens[row] + plan.num_new_tokens[row]
            self._answer(result, row, seq_id, plan.num_computed_tokens[row], end)
        return result

    def _answer(self, result: StepResult, row: int, seq_id: int, start: int, end: int) -> None:
        new, known = self._rows[seq_id]
        if self.error is not None:
            result.errors[seq_id] = self.error
            return
        if (k := new.output.prompt_logprobs) is not None:
            result.prompt_logprobs[seq_id] = [
                self.logprobs(known[position], position, k)
                for position in range(start + 1, min(end + 1, new.num_prompt_tokens))
                if position >= new.output.prompt_logprobs_start
            ]
        if end < len(known):
            return
        said = self._script(known[: new.num_prompt_tokens], new.sampling)
        at = len(known) - new.num_prompt_tokens
        token_id = said[at] if at < len(said) else END_ID
        if token_id in new.stop.all_stop_ids and at < new.stop.min_tokens:
            token_id = ord("~")
        result.token_ids[row] = token_id
        if new.output.logprobs is not None:
            result.logprobs[seq_id] = self.logprobs(token_id, len(known), new.output.logprobs)
        known.append(token_id)

    def logprobs(self, token_id: int, position: int, k: int) -> TokenLogprobs:
        ids = range(self._vocab_size) if k else ()
        best = sorted(ids, key=lambda i: (-logprob_at(i, position), i))[:k]
        return TokenLogprobs(
            token_id,
            logprob_at(token_id, position),
            best,
            [logprob_at(i, position) for i in best],
        )


@asynccontextmanager
async def serve_script(
    folder: Path, script: str | Script, **options: Any
) -> AsyncIterator[tuple[Served, ScriptedRunner]]:
    """The app on a model that follows a script."""
    runner = ScriptedRunner(says(script) if isinstance(script, str) else script)
    async with serve(folder, runner=runner, **options) as served:
        yield served, runner


class Gate:
    """A hand on the engine of a served app: it steps only when allowed."""

    def __init__(self, served: Served) -> None:
        self._core = served.core
        self._engine: Any = served.services.client
        self._step = served.core.step
        self._allowed: float = 0
        self.steps: list[StepOutputs] = []
        served.core.step = self._step_if_allowed  # type: ignore[method-assign]

    async def allow(self, num_steps: int = 1) -> None:
        """Lets the engine make so many steps and waits until they are delivered."""
        self._allowed += num_steps
        self._engine._work.set()
        await settle(20 + 3 * num_steps)

    async def open(self) -> None:
        self._allowed = float("inf")
        self._engine._work.set()
        await settle()

    def _step_if_allowed(self) -> StepOutputs | None:
        if self._allowed <= 0:
            return None
        self._allowed -= 1
        outputs = self._step()
        if outputs is not None:
            self.steps.append(outputs)
        return outputs


async def settle(turns: int = 20) -> None:
    """Lets everything happen that needs no time."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Waits for something that has no event of its own, such as a number of the engine."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


@dataclass
class Event:
    """What the app sent, in order."""

    status: int = 0
    headers: dict[str, str] | None = None
    body: bytes = b""
    ended: bool = False


class AsgiCall:
    """One request at the ASGI level: its client can vanish, or stop reading."""

    def __init__(
        self,
        served: Served,
        path: str,
        body: dict[str, Any] | bytes,
        headers: dict[str, str] | None = None,
    ) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer = Event()
        self.pieces: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._gone = asyncio.Event()
        self._inbox: list[dict[str, Any]] = [
            {"type": "http.request", "body": payload, "more_body": False}
        ]
        given = {"host": "127.0.0.1", "content-type": "application/json", **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 80),
        }
        self.task = asyncio.create_task(served.app(scope, self._receive, self._send))

    def disconnect(self) -> None:
        self._gone.set()

    @property
    def events(self) -> list[Any]:
        """Parsed stream records so far, [DONE] left out."""
        return [
            json.loads(event) for event in sse_events(self.answer.body.decode()) if event[0] == "{"
        ]

    async def _receive(self) -> dict[str, Any]:
        if self._inbox:
            return self._inbox.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            assert self.answer.status == 0, "two status lines"
            self.answer.status = message["status"]
            self.answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
            return
        assert self.answer.status, "body before the status line"
        assert not self.answer.ended, "body after the end"
        self.pieces.append(message["body"])
        self.answer.body += message["body"]
        self.answer.ended = not message.get("more_body", False)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error object; checks the documented shape and that nothing internal leaks."""
    assert response.headers["content-type"].startswith("application/json"), response.text
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert {"message", "type", "param", "code"} <= set(error) <= {
        "message", "type", "param", "code", "hint",
    }  # fmt: skip
    assert error["message"]
    assert len(error["message"]) <= 1000
    assert len(response.content) <= 4096
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    for leak in ("Traceback", "0x", ".py", "pydantic", "shoal.", "Input should", "instance of"):
        assert leak not in response.text, leak
    return error


def refused(response: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    """Checks a whole error answer."""
    error = error_of(response)
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error


def records(response: httpx.Response) -> list[Any]:
    """JSON records of a stream; checks headers and the last frame."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text.endswith("data: [DONE]\n\n")
    events = sse_events(response.text)
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def streamed_texts(events: list[Any]) -> dict[int, str]:
    """Joined text of each choice, completions or chat."""
    texts: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            piece = choice["delta"].get("content", "") if "delta" in choice else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + piece
    return texts


def plain_texts(response: httpx.Response) -> dict[int, str]:
    """Text of each choice of a whole answer."""
    assert response.status_code == 200, response.text
    return {
        choice["index"]: choice["message"]["content"] if "message" in choice else choice["text"]
        for choice in response.json()["choices"]
    }


def nothing_left(served: Served) -> None:
    """No place, sequence or block is held by anything that ended."""
    for model in served.services.models:
        assert served.services.admission.in_flight(model) == 0
    for stats in served.core.stats():
        assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
    for load in served.services.admission._loads.values():
        assert load.waiting_tokens == 0
        assert not load.by_tenant
    assert not served.services.open_requests
