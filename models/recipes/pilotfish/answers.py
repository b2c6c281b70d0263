"""How pilotfish's requests and answers are written.

The answer is always `{"intent":...,"slots":{...}}` without spaces, its slots in the order in which
the request names them. The system text names the label set.
"""

from __future__ import annotations

import json
import re
from typing import Any

from shoal.train.pieces import Segment, Variant, request_and_answer
from shoal.train.tokenizer import END

OUT_OF_SCOPE = "oos"  # the intent of requests that none of the others covers

Slot = dict[str, Any]  # slot, value, start


def answer_json(intent: str, slots: dict[str, Any]) -> str:
    """The one way an answer is written."""
    return json.dumps({"intent": intent, "slots": slots}, ensure_ascii=False, separators=(",", ":"))


def slots_object(slots: list[Slot]) -> dict[str, Any]:
    """Slot values by name; a slot that occurs more than once has a list of values."""
    values: dict[str, Any] = {}
    for slot in sorted(slots, key=lambda slot: int(slot["start"])):
        name, value = slot["slot"], slot["value"]
        if name in values:
            before = values[name]
            values[name] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            values[name] = value
    return values


def in_order_of_text(text: str, slots: dict[str, str]) -> dict[str, str]:
    """Slots sorted by where their values occur in the request; those that do not, last."""
    lower = text.lower()

    def position(name: str) -> tuple[int, str]:
        match = re.search(rf"\b{re.escape(slots[name].lower())}\b", lower)
        return (match.start() if match else len(lower), name)

    return {name: slots[name] for name in sorted(slots, key=position)}


def write_request(text: str, answer: str, task: str, index: int) -> Variant:
    """A request and its answer; one variant in eight leaves out the system text `task`."""
    return request_and_answer(text, answer, "" if index % 8 == 7 else task)


def write_intent_request(text: str, intent: str, task: str, index: int) -> Variant:
    """A request without slots. In three variants of four only the intent is in the loss: the rest
    of the answer is always the same, and costs as much to compute."""
    variant = write_request(text, answer_json(intent, {}), task, index)
    if index % 4 == 0 or not (intent[0].isalnum() and intent[-1].isalnum()):
        return variant
    before, after = answer_json("\n", {}).split("\\n")
    return [
        *variant[:-1],
        Segment(before, False),
        Segment(intent, True),
        Segment(after + END, False),
    ]
