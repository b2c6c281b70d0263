"""The stream events of a response and its output items, one item per block of the message."""

from typing import Any

from shoal.server import sse
from shoal.server.api.blocks import Block
from shoal.server.json import dumps

_ITEM_PREFIXES = {"text": "msg", "reasoning": "rs", "tool_call": "fc"}


class EventWriter:
    """Writes the numbered events of one stream."""

    def __init__(self, unique: str) -> None:
        self._unique = unique
        self._num_events = 0

    def response(self, name: str, response: dict[str, Any]) -> bytes:
        """A new state of the whole response."""
        return self._event(f"response.{name}", {"response": response})

    def opened(self, block: Block) -> bytes:
        item = item_of(block, self._unique, "in_progress", [])
        place = {"output_index": block.index}
        if block.kind != "tool_call":
            item["content"] = []
        added = self._event("response.output_item.added", {**place, "item": item})
        if block.kind == "tool_call":
            return added
        place |= {"item_id": item["id"], "content_index": 0}
        part = content_part(block, [])
        return added + self._event("response.content_part.added", {**place, "part": part})

    def grew(self, block: Block, piece: str, logprobs: list[dict[str, Any]]) -> bytes:
        record: dict[str, Any] = {**self._place(block), "delta": piece}
        if block.kind == "text":
            record["logprobs"] = logprobs
        return self._event(f"{_EVENTS[block.kind]}.delta", record)

    def closed(self, block: Block, item: dict[str, Any], logprobs: list[dict[str, Any]]) -> bytes:
        place = self._place(block)
        whole: dict[str, Any]
        match block.kind:
            case "tool_call":
                whole = {"arguments": block.text, "name": block.name}
            case "text":
                whole = {"text": block.text, "logprobs": logprobs}
            case "reasoning":
                whole = {"text": block.text}
        events = [self._event(f"{_EVENTS[block.kind]}.done", {**place, **whole})]
        if block.kind != "tool_call":
            part = {"part": content_part(block, logprobs)}
            events.append(self._event("response.content_part.done", {**place, **part}))
        done = {"output_index": block.index, "item": item}
        events.append(self._event("response.output_item.done", done))
        return b"".join(events)

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": item_id(block, self._unique), "output_index": block.index}
        return place if block.kind == "tool_call" else {**place, "content_index": 0}

    def _event(self, name: str, record: dict[str, Any]) -> bytes:
        numbered = {"type": name, "sequence_number": self._num_events, **record}
        self._num_events += 1
        return sse.named_event(name, dumps(numbered))


_EVENTS = {
    "text": "response.output_text",
    "reasoning": "response.reasoning_text",
    "tool_call": "response.function_call_arguments",
}


def item_id(block: Block, unique: str) -> str:
    return f"{_ITEM_PREFIXES[block.kind]}_{unique}_{block.index}"


def item_of(
    block: Block, unique: str, status: str, logprobs: list[dict[str, Any]]
) -> dict[str, Any]:
    """The output item of a block."""
    item = {"id": item_id(block, unique), "status": status}
    match block.kind:
        case "tool_call":
            call = {"call_id": block.id, "name": block.name, "arguments": block.text}
            return {**item, "type": "function_call", **call}
        case "reasoning":
            content = [content_part(block, [])]
            return {**item, "type": "reasoning", "summary": [], "content": content}
        case "text":
            content = [content_part(block, logprobs)]
            return {**item, "type": "message", "role": "assistant", "content": content}


def content_part(block: Block, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "reasoning_text", "text": block.text}
    return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}
