"""The schema of pilotfish's answers: lists of values only where requests name a slot again."""

from typing import Any

from models.recipes.pilotfish.frames import COPIED, LISTED, frame_schema, frames_of


def request(intent: str, *slots: str) -> dict[str, Any]:
    return {"intent": intent, "slots": [{"slot": slot} for slot in slots]}


def test_a_slot_may_have_a_list_where_several_requests_name_it_again() -> None:
    frames = frames_of([
        request("Book", "city", "dish", "dish"), request("Book", "dish", "dish", "dish"),
        request("Book", "time", "time"), request("Rate", "dish"),
    ])  # fmt: skip
    assert frames == {"Book": {"city": 0, "dish": 2, "time": 1}, "Rate": {"dish": 0}}
    book, rate = (frame["properties"]["slots"] for frame in frame_schema(frames)["anyOf"])
    assert book["propertyNames"] == {"enum": ["city", "dish", "time"]}
    assert (book["properties"], book["additionalProperties"]) == ({"dish": LISTED}, COPIED)
    assert rate["properties"] == {}
