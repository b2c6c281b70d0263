"""A JSON schema for pilotfish's answers: intents with the slots that each may have.

Slot values are words of the request: with `"x-copy": "prompt"` a server that knows this keyword
lets the model write nothing else, and every other reader of the schema ignores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Schema = dict[str, Any]
COPIED: Schema = {"type": "string", "x-copy": "prompt"}


def frames_of(records: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The slots that occur with each intent of a corpus."""
    frames: dict[str, set[str]] = {}
    for record in records:
        slots = frames.setdefault(record["intent"], set())
        slots.update(slot["slot"] for slot in record["slots"])
    return frames


def frame_schema(frames: Mapping[str, Iterable[str]]) -> Schema:
    """Of the answers: `{"intent":...,"slots":{...}}`, the slots in any order."""
    return {"anyOf": [_frame(intent, sorted(slots)) for intent, slots in sorted(frames.items())]}


def _frame(intent: str, slots: list[str]) -> Schema:
    value = {"anyOf": [COPIED, {"type": "array", "items": COPIED, "minItems": 2, "maxItems": 8}]}
    return {
        "type": "object",
        "properties": {
            "intent": {"const": intent},
            "slots": {
                "type": "object",
                "propertyNames": {"enum": slots},
                "additionalProperties": value,
            },
        },
        "required": ["intent", "slots"],
        "additionalProperties": False,
    }
