"""A JSON schema for pilotfish's answers: intents with the slots that each may have.

Slot values are words of the request: with `"x-copy": "prompt"` a server that knows this keyword
lets the model write nothing else, and every other reader of the schema ignores it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Schema = dict[str, Any]
COPIED: Schema = {"type": "string", "x-copy": "prompt"}
LISTED: Schema = {
    "anyOf": [COPIED, {"type": "array", "items": COPIED, "minItems": 2, "maxItems": 8}]
}
"""Of a slot that a request may name several times."""
Frames = dict[str, dict[str, int]]
"""[intent][slot] how many requests name it several times."""
_FEWEST_LISTS = 2
"""Requests with several values, from which on a slot may have a list: one may be a mistake."""


def frames_of(records: Iterable[Mapping[str, Any]]) -> Frames:
    """The slots that occur with each intent of a corpus."""
    frames: Frames = {}
    for record in records:
        slots = frames.setdefault(record["intent"], {})
        for slot, count in Counter(slot["slot"] for slot in record["slots"]).items():
            slots[slot] = slots.get(slot, 0) + (count > 1)
    return frames


def frame_schema(frames: Mapping[str, Mapping[str, int]]) -> Schema:
    """Of the answers: `{"intent":...,"slots":{...}}`, the slots in any order."""
    return {"anyOf": [_frame(intent, slots) for intent, slots in sorted(frames.items())]}


def _frame(intent: str, slots: Mapping[str, int]) -> Schema:
    listed = [slot for slot in sorted(slots) if slots[slot] >= _FEWEST_LISTS]
    return {
        "type": "object",
        "properties": {
            "intent": {"const": intent},
            "slots": {
                "type": "object",
                "propertyNames": {"enum": sorted(slots)},
                "properties": dict.fromkeys(listed, LISTED),
                "additionalProperties": COPIED,
            },
        },
        "required": ["intent", "slots"],
        "additionalProperties": False,
    }
