"""Watches every stream that an app sends in tests: it ends once, as its API says, and never early
while its client is there."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ENDS = {"message_stop", "response.completed", "response.incomplete", "response.failed", "error"}
"""Last events of the APIs whose events have names."""


class StreamCheck:
    """Around an ASGI app. What was wrong with a stream is a line of `problems`."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self.problems: list[str] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        kind, body, gone, stuck, ended = "", bytearray(), False, False, False

        async def watched_receive() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def watched_send(message: Message) -> None:
            nonlocal kind, stuck, ended
            stuck = True
            await send(message)
            stuck = False
            if message["type"] == "http.response.start":
                kind = dict(message["headers"]).get(b"content-type", b"").decode()
            elif kind.startswith(("text/event-stream", "application/x-ndjson")):
                body.extend(message["body"])
                ended = not message.get("more_body", False)

        await self._app(scope, watched_receive, watched_send)
        if gone or stuck or not kind.startswith(("text/event-stream", "application/x-ndjson")):
            return  # nobody is there to read an end
        problem = end_problem(bytes(body)) if ended else "it was cut"
        if problem:
            self.problems.append(f"{scope['path']}: {problem}: ...{bytes(body[-300:])!r}")


def end_problem(body: bytes) -> str | None:
    """What is wrong with how a whole stream ends; None where nothing is."""
    records = [record for record in body.split(b"\n\n") if record and not record.startswith(b":")]
    if not body.startswith((b"data:", b"event:", b":")):
        return _lines_problem([json.loads(line) for line in body.splitlines()])
    if not body.endswith(b"\n\n"):
        return "the last record is not complete"
    if any(record.startswith(b"event:") for record in records):
        return _named_problem(records)
    data = [record.removeprefix(b"data:").strip() for record in records]
    if data[-1] == b"[DONE]":
        return _openai_problem([json.loads(item) for item in data[:-1] if item != b"[DONE]"], data)
    last = json.loads(data[-1])
    if "error" in last or last.get("generated_text") is not None:
        return None
    return "no [DONE]"


def _openai_problem(events: list[Any], data: list[bytes]) -> str | None:
    if data.count(b"[DONE]") != 1:
        return "more than one [DONE]"
    errors = [place for place, event in enumerate(events) if "error" in event]
    if errors:
        return None if errors == [len(events) - 1] else "an error that is not the one last event"
    seen: set[int] = set()
    ends: Counter[int] = Counter()
    for choice in (choice for event in events for choice in event.get("choices", ())):
        seen.add(choice["index"])
        ends[choice["index"]] += choice.get("finish_reason") is not None
    wrong = [index for index in seen if ends[index] != 1]
    return f"choices {wrong} have not one finish_reason" if wrong or not seen else None


def _named_problem(records: list[bytes]) -> str | None:
    names = [
        line.removeprefix(b"event:").strip().decode()
        for record in records
        for line in record.splitlines()
        if line.startswith(b"event:")
    ]
    ends = [place for place, name in enumerate(names) if name in ENDS]
    return None if ends == [len(names) - 1] else f"ends at {ends} of {len(names)} events"


def _lines_problem(lines: list[Any]) -> str | None:
    ends = [place for place, line in enumerate(lines) if line.get("done") or "error" in line]
    return None if ends == [len(lines) - 1] else f"ends at {ends} of {len(lines)} lines"
