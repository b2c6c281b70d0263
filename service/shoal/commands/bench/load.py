"""Keeps a fixed number of clients busy (closed loop) and records the result of each request.

A client sends its next request when the previous one has ended. Nothing is retried; after a failure
a client pauses for `REST_AFTER_FAILURE_S`, so that a server that rejects requests is not flooded.
`stats.py` computes the percentiles.
"""

import asyncio
import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter, process_time
from typing import Any, Literal

from .events import EventStream, error_code, usage_of
from .http import Address, Clock, Connection, ExchangeFailed, Response, render_request
from .prompts import make_prompt

REST_AFTER_FAILURE_S = 0.25
WARM_UP_TOKENS = 8
TICK_S = 0.25

Api = Literal["completions", "chat"]


@dataclass(frozen=True, slots=True)
class Workload:
    """Parameters of every request."""

    address: Address
    model: str
    api: Api = "completions"
    api_key: str = field(default="", repr=False)
    max_tokens: int = 128
    prompt_words: int = 64
    shared_prefix: int = 0  # words
    seed: int = 0
    stream: bool = True
    ignore_eos: bool = True
    include_usage: bool = True
    keep_alive: bool = True
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a level stops sending: after this many requests or seconds, whichever comes first."""

    num_requests: int | None = None
    duration_s: float | None = None


@dataclass(slots=True)
class RequestRecord:
    """One request. Times in seconds on the level's clock; `error` is the name used in counts."""

    sent_at: float
    ended_at: float = 0.0
    token_times: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None  # as reported by the server
    error: str | None = None


@dataclass(slots=True)
class LevelRun:
    """All requests at one concurrency level. `sending_ended_at`: no request was sent later."""

    concurrency: int
    started_at: float
    sending_ended_at: float = 0.0
    ended_at: float = 0.0
    cpu_s: float = 0.0  # of this process between start and end
    records: list[RequestRecord] = field(default_factory=list)


def request_body(work: Workload, label: str, max_tokens: int) -> bytes:
    prompt = make_prompt(work.seed, label, work.prompt_words, work.shared_prefix)
    body: dict[str, Any] = {"model": work.model, "max_tokens": max_tokens, "temperature": 0}
    if work.api == "chat":
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    if work.ignore_eos:
        body["ignore_eos"] = True
    if work.stream:
        body["stream"] = True
        if work.include_usage:
            body["stream_options"] = {"include_usage": True}
    return json.dumps(body).encode()


class LoadClient:
    """One simulated user with one connection."""

    def __init__(self, work: Workload, clock: Clock = perf_counter) -> None:
        self._work = work
        self._clock = clock
        self._connection = Connection(work.address, clock)

    async def send(self, label: str, max_tokens: int | None = None) -> RequestRecord:
        """Sends one request; failures are recorded, not raised."""
        work = self._work
        route = "/v1/chat/completions" if work.api == "chat" else "/v1/completions"
        body = request_body(work, label, work.max_tokens if max_tokens is None else max_tokens)
        message = render_request(
            work.address, "POST", route, body, api_key=work.api_key, keep_alive=work.keep_alive
        )
        events = EventStream()
        record = RequestRecord(sent_at=self._clock())
        try:
            async with asyncio.timeout(work.timeout_s):
                response = await self._connection.exchange(message, events.feed)
            _record_response(record, response, events)
        except ExchangeFailed as error:
            record.error = error.kind
            record.token_times = events.outcome().token_times
        except TimeoutError:
            record.error = "timeout"
            record.token_times = events.outcome().token_times
        record.ended_at = self._clock()
        if not work.keep_alive:
            self._connection.close()
        return record

    def close(self) -> None:
        self._connection.close()


def _record_response(record: RequestRecord, response: Response, events: EventStream) -> None:
    if response.status != 200:
        record.error = " ".join(filter(None, (str(response.status), error_code(response.body))))
    elif response.is_event_stream:
        outcome = events.outcome()
        record.token_times = outcome.token_times
        record.prompt_tokens = outcome.prompt_tokens
        record.output_tokens = outcome.output_tokens
        if outcome.error is not None:
            record.error = f"stream_error {outcome.error}"
        elif not outcome.ended:
            record.error = "stream_cut"
    else:
        usage = usage_of(response.body)
        record.prompt_tokens = usage.get("prompt_tokens")
        record.output_tokens = usage.get("completion_tokens")


async def run_level(
    work: Workload,
    concurrency: int,
    limits: Limits,
    on_tick: Callable[[int, float], None] | None = None,
    clock: Clock = perf_counter,
) -> LevelRun:
    """Warms up every client with one short request, then measures. `on_tick` is called several
    times a second with the number of finished requests and the elapsed seconds."""
    clients = [LoadClient(work, clock) for _ in range(concurrency)]
    try:
        warm_up = [
            client.send(f"warm-{concurrency}-{i}", min(WARM_UP_TOKENS, work.max_tokens))
            for i, client in enumerate(clients)
        ]
        await asyncio.gather(*warm_up)
        return await _measure(clients, limits, on_tick or (lambda done, passed: None), clock)
    finally:
        for client in clients:
            client.close()


async def _measure(
    clients: list[LoadClient],
    limits: Limits,
    on_tick: Callable[[int, float], None],
    clock: Clock,
) -> LevelRun:
    run = LevelRun(len(clients), started_at=clock())
    cpu_before = process_time()
    numbers = iter(range(limits.num_requests if limits.num_requests is not None else 2**62))

    def may_send() -> int | None:
        passed = clock() - run.started_at
        if limits.duration_s is not None and passed >= limits.duration_s:
            return None
        return next(numbers, None)

    async def keep_busy(client: LoadClient) -> None:
        while (number := may_send()) is not None:
            record = await client.send(f"{run.concurrency}-{number}")
            run.records.append(record)
            if record.error is not None:
                await asyncio.sleep(REST_AFTER_FAILURE_S)

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            on_tick(len(run.records), clock() - run.started_at)

    ticker = asyncio.create_task(tick())
    gc.disable()  # a collection during the run would show up as a late token
    try:
        await asyncio.gather(*(keep_busy(client) for client in clients))
    finally:
        gc.enable()
        ticker.cancel()
    run.cpu_s = process_time() - cpu_before
    run.ended_at = max((r.ended_at for r in run.records), default=clock())
    run.sending_ended_at = run.ended_at
    if limits.duration_s is not None:
        run.sending_ended_at = min(run.ended_at, run.started_at + limits.duration_s)
    return run


class ProbeFailed(Exception):
    """The server cannot be measured; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """A workload the server accepts; `notes` says which fields had to be left out."""

    work: Workload
    server_version: dict[str, Any] | None
    notes: tuple[str, ...]


async def probe(work: Workload, clock: Clock = perf_counter) -> Target:
    """Finds the model (if `work.model` is empty) and which fields the server accepts, with short
    real requests. Raises ProbeFailed."""
    notes: list[str] = []
    version = await _get_json(work, "/version")
    if not work.model:
        work = replace(work, model=await _first_model(work))
    while True:
        client = LoadClient(work, clock)
        record = await client.send("probe", min(WARM_UP_TOKENS, work.max_tokens))
        client.close()
        if record.error is None:
            break
        refused = record.error.startswith(("400", "422"))
        if refused and work.ignore_eos:
            work = replace(work, ignore_eos=False)
            notes.append("ignore_eos left out: the server refuses it, so answers may end early")
        elif refused and work.stream and work.include_usage:
            work = replace(work, include_usage=False)
            notes.append("stream_options left out: the server refuses it; tokens = chunks")
        else:
            raise ProbeFailed(_explain(work, record.error))
    if record.output_tokens is None:
        notes.append("the server reports no usage: tokens are counted as chunks")
    return Target(work, version, tuple(notes))


async def _first_model(work: Workload) -> str:
    listing = await _get_json(work, "/v1/models")
    if listing is None:
        raise ProbeFailed(_explain(work, "connect_failed or no /v1/models"))
    models = [entry.get("id") for entry in listing.get("data") or []]
    if not models:
        raise ProbeFailed(f"{work.address.url} lists no model: name one with --model")
    return str(models[0])


async def _get_json(work: Workload, route: str) -> dict[str, Any] | None:
    """The JSON object at `route`, or None on any failure."""
    connection = Connection(work.address)
    message = render_request(
        work.address, "GET", route, b"", api_key=work.api_key, keep_alive=False
    )
    try:
        async with asyncio.timeout(10):
            response = await connection.exchange(message)
        value = json.loads(response.body) if response.status == 200 else None
    except (ExchangeFailed, TimeoutError, ValueError):
        return None
    finally:
        connection.close()
    return value if isinstance(value, dict) else None


def _explain(work: Workload, error: str) -> str:
    url = work.address.url
    if error.startswith("connect_failed"):
        return f"no server at {url}: start one with `shoal serve`"
    if error.startswith("401"):
        return f"{url} wants a key: give it with --api-key"
    return f"{url} does not answer a short {work.api} request: {error}"
