"""Intent, slot and dialogue-state corpora to requests answered by one JSON object.

The answer is always `{"intent":...,"slots":{...}}` without blanks, slots in the order in which
the request names them. The system text names the label set (option `task`); one reading in eight
leaves it out. Variants of a request change what must not change the answer, or swap slot values.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from shoal.train.config import Source
from shoal.train.pieces import Variant, plain, request_and_answer

Record = dict[str, Any]
Slot = dict[str, Any]  # slot, value, start

_OPENINGS = ("please ", "hey, ", "can you ", "could you please ", "i want to ", "ok, ", "so ")


def answer_json(intent: str, slots: dict[str, Any]) -> str:
    """The one way an answer is written."""
    return json.dumps({"intent": intent, "slots": slots}, ensure_ascii=False, separators=(",", ":"))


def slots_object(slots: list[Slot]) -> dict[str, Any]:
    """Slot values by name; a slot that occurs more than once has a list of values."""
    found: dict[str, Any] = {}
    for slot in sorted(slots, key=lambda slot: int(slot["start"])):
        name, value = slot["slot"], slot["value"]
        if name in found:
            before = found[name]
            found[name] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            found[name] = value
    return found


def read_snips(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """Commands with slots. Variants: as said, and with slot values of other commands put in."""
    records = list(records)
    pools: dict[str, list[str]] = defaultdict(list)
    for record in records:
        for slot in record["slots"]:
            pools[slot["slot"]].append(slot["value"])
    for number, record in enumerate(records):
        chance = random.Random(f"snips {number} {record['text']}")
        asked = [(record["text"], record["slots"])] * 4
        for _ in range(4):
            text, slots = swap_values(record["text"], record["slots"], pools, chance)
            asked.append((_change_case(text, slots, chance), slots))
        yield [
            _ask(text, answer_json(record["intent"], slots_object(slots)), source, place)
            for place, (text, slots) in enumerate(asked)
        ]


def swap_values(
    text: str, slots: list[Slot], pools: dict[str, list[str]], chance: random.Random
) -> tuple[str, list[Slot]]:
    """The same command with about half of its slot values taken from other commands."""
    said, swapped, done = "", [], 0
    for slot in sorted(slots, key=lambda slot: int(slot["start"])):
        said += text[done : slot["start"]]
        value = chance.choice(pools[slot["slot"]]) if chance.random() < 0.5 else slot["value"]
        swapped.append({"slot": slot["slot"], "value": value, "start": len(said)})
        said += value
        done = slot["start"] + len(slot["value"])
    return said + text[done:], swapped


def _change_case(text: str, slots: list[Slot], chance: random.Random) -> str:
    # only the first letter, and only outside of slots: values are copied letter by letter
    if chance.random() < 0.3 and text and all(int(slot["start"]) > 0 for slot in slots):
        return text[0].swapcase() + text[1:]
    return text


def read_intents(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """Requests with an intent and no slots. Variants: as said, and slightly changed."""
    for number, record in enumerate(records):
        chance = random.Random(f"intents {number} {record['text']}")
        answer = answer_json(record["intent"], {})
        asked = [record["text"]] * 4 + [disturb(record["text"], chance) for _ in range(12)]
        yield [_ask(text, answer, source, place) for place, text in enumerate(asked)]


def disturb(text: str, chance: random.Random) -> str:
    """Drop or swap a few words, change case or the opening: the intent stays."""
    words = text.split(" ")
    if len(words) > 3:
        words = [word for word in words if chance.random() > 0.08] or words
    if len(words) > 3 and chance.random() < 0.2:
        place = chance.randrange(len(words) - 1)
        words[place], words[place + 1] = words[place + 1], words[place]
    changed = " ".join(words)
    if chance.random() < 0.15:
        changed = chance.choice(_OPENINGS) + changed
    if chance.random() < 0.3:
        changed = changed.lower()
    elif chance.random() < 0.3:
        changed = changed[:1].upper() + changed[1:]
    if chance.random() < 0.2:
        changed = changed.rstrip("?.!")
    elif chance.random() < 0.1 and changed[-1:].isalnum():
        changed += "?"
    return changed


def read_dialogue_state(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """The first user turn of a dialogue with one service, answered by its state."""
    for record in records:
        turn = record["turns"][0]
        if turn["speaker"] == "user" and len(turn["state"]) == 1:
            state = turn["state"][0]
            answer = answer_json(state["intent"], _in_said_order(turn["text"], state["slots"]))
            yield [_ask(turn["text"], answer, source, place) for place in range(8)]


def read_outside(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """Requests that none of the intents covers, answered with the intent `oos`.

    From dialogues (option `services`: the first turn of dialogues with these only), or questions
    about the titles of an encyclopaedia (option `questions`: patterns with `{}`). The option
    `share` says how many of the found ones are used.
    """
    services = set(source.options.get("services", ()))
    patterns = source.options.get("questions", ())
    answer = answer_json("oos", {})
    for record in records:
        chance = random.Random(f"outside {record.get('id')}")
        if chance.random() >= source.options.get("share", 1.0):
            continue
        if patterns:
            text = chance.choice(patterns).format(record["title"].lower())
        elif not services.issuperset(record["services"]):
            continue
        else:
            text = record["turns"][0]["text"]
        asked = [text.lower(), disturb(text, chance), disturb(text, chance), text.lower()]
        yield [_ask(said, answer, source, place) for place, said in enumerate(asked * 2)]


def read_background(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """Plain text for the tokenizer and the embedding's warm start: `text` or dialogue turns.

    The option `characters` cuts each text."""
    most = source.options.get("characters")
    for record in records:
        if "turns" in record:
            text = "\n".join(turn["text"] for turn in record["turns"])
        else:
            text = record["text"][: record.get("lead_chars", most)]
        yield [plain(text[:most])]


def _ask(text: str, answer: str, source: Source, place: int) -> Variant:
    task = "" if place % 8 == 7 else source.options.get("task", "")
    return request_and_answer(text, answer, task)


def _in_said_order(text: str, slots: dict[str, str]) -> dict[str, str]:
    said = text.lower()

    def place(name: str) -> tuple[int, str]:
        found = re.search(rf"\b{re.escape(slots[name].lower())}\b", said)
        return (found.start() if found else len(said), name)

    return {name: slots[name] for name in sorted(slots, key=place)}
