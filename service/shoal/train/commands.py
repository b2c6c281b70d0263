"""Intent, slot and dialogue-state corpora to requests answered by one JSON object.

The answer is always `{"intent":...,"slots":{...}}` without blanks, slots in the order in which
the request names them. The system text names the label set (option `task`); one reading in eight
leaves it out. Variants of a request change what must not change the answer, swap slot values or
join pieces of two requests.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

from shoal.train.config import RecipeError, Source
from shoal.train.pieces import Piece, Variant, plain, request_and_answer
from shoal.train.tokenizer import END
from shoal.train.values import ValuePools

Record = dict[str, Any]
Slot = dict[str, Any]  # slot, value, start

# A short question in running text, and words that make it one of small talk.
_QUESTION = re.compile(
    r"\b(?:[Hh]ow|[Ww]hat|[Ww]ho|[Ww]here|[Ww]hen|[Ww]hy|[Ww]hich)\b[^.!?\"\u201c\u201d;:\u2014_]{10,70}\?"
)
_PERSONAL = re.compile(r"\b(?:I|you|your|yours|my|mine|me|we|us|our|thou|thy)\b", re.IGNORECASE)
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
    """Commands with slots. Variants: as said, and with other slot values put in.

    Option `open_slots`: slots that may hold any name. Option `titles`: titles that fit, by slot.
    """
    records = list(records)
    options = source.options
    pools = ValuePools(
        records, options.get("open_slots", ()), options.get("titles"), options.get("words", ())
    )
    for number, record in enumerate(records):
        chance = random.Random(f"snips {number} {record['text']}")
        asked = [(record["text"], record["slots"])] * 5
        for _ in range(25):
            text, slots = swap_values(record["text"], record["slots"], pools, chance)
            asked.append((_change_case(text, slots, chance), slots))
        yield [
            _ask(text, answer_json(record["intent"], slots_object(slots)), source, place)
            for place, (text, slots) in enumerate(asked)
        ]


def swap_values(
    text: str, slots: list[Slot], pools: ValuePools, chance: random.Random
) -> tuple[str, list[Slot]]:
    """The same command with about half of its slot values replaced."""
    said, swapped, done = "", [], 0
    for slot in sorted(slots, key=lambda slot: int(slot["start"])):
        said += text[done : slot["start"]]
        value = pools.draw(slot["slot"], slot["value"], chance)
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
    """Requests with an intent and no slots. Variants: as said, slightly changed, and (option
    `made_up`: how many) made of pieces of several requests, with the intent that judges give them.
    With the option `base_judges` the model that is trained further is one of the judges."""
    records = list(records)
    made = _made_up(records, source)
    for number, (record, others) in enumerate(zip(records, made, strict=True)):
        text, intent = record["text"], record["intent"]
        chance = random.Random(f"intents {number} {text}")
        asked = [(text, intent)] * 4
        asked += [(disturb(text, chance), intent) for _ in range(12)]
        asked += [(disturb(other, chance), named) for other, named in others]
        yield [_ask_intent(*pair, source, place) for place, pair in enumerate(asked)]


def _made_up(records: list[Record], source: Source) -> list[list[tuple[str, str]]]:
    times = source.options.get("made_up", 0)
    if not times:
        return [[] for _ in records]
    try:
        from shoal.train.judges import Committee  # only here: scikit-learn is slow to load
        from shoal.train.made_up import make_up
    except ImportError as error:
        raise RecipeError("option made_up needs scikit-learn: pip install scikit-learn") from error
    texts = [record["text"] for record in records]
    intents = [record["intent"] for record in records]
    base, task = source.options.get("base"), source.options.get("task", "")
    return make_up(texts, intents, times, Committee(texts, intents, base, task))


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

    Dialogues (option `services`: the first turn of those with these only), questions about the
    titles of an encyclopaedia (option `questions`: patterns with `{}`), questions that stand in
    running text (option `asked_in_text`), or else every record's text.
    """
    for number, record in enumerate(records):
        chance = random.Random(f"outside {source.file} {number}")
        for text in _outside_texts(record, source, chance):
            asked = [text.lower(), disturb(text, chance), disturb(text, chance), text.lower()]
            yield [_ask_intent(said, "oos", source, place) for place, said in enumerate(asked * 2)]


def _outside_texts(record: Record, source: Source, chance: random.Random) -> Iterator[str]:
    options = source.options
    if "services" in options:
        if set(options["services"]).issuperset(record["services"]):
            yield record["turns"][0]["text"]
    elif "questions" in options:
        yield chance.choice(options["questions"]).format(record["title"].lower())
    elif "asked_in_text" in options:
        for found in _QUESTION.finditer(record["text"]):
            text = " ".join(found.group().split())
            if not _PERSONAL.search(text):
                yield text
    else:
        yield record["text"]


def read_background(records: Iterable[Record], source: Source) -> Iterator[list[Variant]]:
    """Plain text for the tokenizer and the embedding's warm start: `text` or dialogue turns.

    The option `characters` cuts each text."""
    most = source.options.get("characters")
    for record in records:
        if "turns" in record:
            text = "\n".join(turn["text"] for turn in record["turns"])
        else:
            text = record["text"]
        yield [plain(text[:most])]


def _ask_intent(text: str, intent: str, source: Source, place: int) -> Variant:
    """A request without slots. In three readings of four only the intent is learned: what stands
    around it is always the same, and costs as much to compute."""
    asked = _ask(text, answer_json(intent, {}), source, place)
    if place % 4 == 0 or not (intent[0].isalnum() and intent[-1].isalnum()):
        return asked
    before, after = answer_json("\n", {}).split("\\n")
    return [*asked[:-1], Piece(before, False), Piece(intent, True), Piece(after + END, False)]


def _ask(text: str, answer: str, source: Source, place: int) -> Variant:
    task = "" if place % 8 == 7 else source.options.get("task", "")
    return request_and_answer(text, answer, task)


def _in_said_order(text: str, slots: dict[str, str]) -> dict[str, str]:
    said = text.lower()

    def place(name: str) -> tuple[int, str]:
        found = re.search(rf"\b{re.escape(slots[name].lower())}\b", said)
        return (found.start() if found else len(said), name)

    return {name: slots[name] for name in sorted(slots, key=place)}
