"""Formats of pilotfish's sources: corpora of intents, slots and dialogue states.

Option `task` of a source is the system text of its requests. Variants of a request change what must
not change the answer, swap slot values, or are synthetic (`synthetic.py`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping

from shoal.train.config import RecipeError, Source
from shoal.train.corpora import read_records
from shoal.train.pieces import ReadContext, Reader, Record, Variant, plain

from .answers import (
    OUT_OF_SCOPE,
    Slot,
    answer_json,
    in_order_of_text,
    slots_object,
    write_intent_request,
    write_request,
)
from .slot_values import SlotValues, common_words, titles_by_slot

# A short question in running text, and words that make it conversation.
_QUESTION = re.compile(
    r"\b(?:[Hh]ow|[Ww]hat|[Ww]ho|[Ww]here|[Ww]hen|[Ww]hy|[Ww]hich)\b[^.!?\"\u201c\u201d;:\u2014_]{10,70}\?"
)
_PERSONAL = re.compile(r"\b(?:I|you|your|yours|my|mine|me|we|us|our|thou|thy)\b", re.IGNORECASE)
_OPENINGS = ("please ", "hey, ", "can you ", "could you please ", "i want to ", "ok, ", "so ")


def read_snips(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Commands with slots. Variants: as written, and with other slot values.

    Options: `open_slots`, slots that may hold any name; `titles`, slot -> nouns, and `titles_from`,
    the file of another source whose articles about such nouns give titles as values.
    """
    records, task = list(records), _task(source)
    pool = None if context.held_out else _slot_values(records, source, context)
    for number, record in enumerate(records):
        text, slots = record["text"], record["slots"]
        requests: list[tuple[str, list[Slot]]] = [(text, slots)] * 5
        if pool is not None:
            rng = random.Random(f"snips {number} {text}")
            for _ in range(25):
                swapped, new_slots = swap_values(text, slots, pool, rng)
                requests.append((_change_case(swapped, new_slots, rng), new_slots))
        yield [
            write_request(request, answer_json(record["intent"], slots_object(values)), task, index)
            for index, (request, values) in enumerate(requests)
        ]


def _slot_values(records: list[Record], source: Source, context: ReadContext) -> SlotValues:
    options = source.options
    titles: Mapping[str, list[str]] = {}
    words: list[str] = []
    if "titles_from" in options:
        file = options["titles_from"]
        if all(other.file != file for other in context.sources):
            raise RecipeError(f"titles_from = {file!r} is not the file of a source of this recipe")
        articles = list(read_records(context.data_dir / file))
        titles = titles_by_slot(articles, options["titles"])
        words = common_words(articles)
    return SlotValues(records, options.get("open_slots", ()), titles, words)


def swap_values(
    text: str, slots: list[Slot], values: SlotValues, rng: random.Random
) -> tuple[str, list[Slot]]:
    """The same command with about half of its slot values replaced."""
    swapped, new_slots, end = "", [], 0
    for slot in sorted(slots, key=lambda slot: int(slot["start"])):
        swapped += text[end : slot["start"]]
        value = values.draw(slot["slot"], slot["value"], rng)
        new_slots.append({"slot": slot["slot"], "value": value, "start": len(swapped)})
        swapped += value
        end = slot["start"] + len(slot["value"])
    return swapped + text[end:], new_slots


def _change_case(text: str, slots: list[Slot], rng: random.Random) -> str:
    # only the first letter, and only outside of slots: values are copied letter by letter
    if rng.random() < 0.3 and text and all(int(slot["start"]) > 0 for slot in slots):
        return text[0].swapcase() + text[1:]
    return text


def read_intents(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Requests with an intent and no slots. Variants: as written, slightly changed, and synthetic
    ones with the intents that teachers give them.

    Options: `synthetic`, how many for each request; `base_teaches`, whether the model that is
    trained further is one of the teachers.
    """
    records, task = list(records), _task(source)
    synthetic = _synthetic(records, source, context)
    for number, (record, labelled) in enumerate(zip(records, synthetic, strict=True)):
        text, intent = record["text"], record["intent"]
        rng = random.Random(f"intents {number} {text}")
        requests = [(text, intent)] * 4
        requests += [(disturb(text, rng), intent) for _ in range(12)]
        requests += [(disturb(other, rng), label) for other, label in labelled]
        yield [
            write_intent_request(request, label, task, index)
            for index, (request, label) in enumerate(requests)
        ]


def _synthetic(
    records: list[Record], source: Source, context: ReadContext
) -> list[list[tuple[str, str]]]:
    """(text, intent) of the synthetic requests of each record."""
    count = source.options.get("synthetic", 0)
    if not count or context.held_out:
        return [[] for _ in records]
    try:
        from .synthetic import label_synthetic  # only here: scikit-learn is slow to load
        from .teachers import Ensemble
    except ImportError as error:
        raise RecipeError(
            "option synthetic needs scikit-learn: pip install scikit-learn"
        ) from error
    texts = [record["text"] for record in records]
    intents = [record["intent"] for record in records]
    base = context.base if source.options.get("base_teaches") else None
    return label_synthetic(texts, intents, count, Ensemble(texts, intents, base, _task(source)))


def disturb(text: str, rng: random.Random) -> str:
    """Drop or swap a few words, change case or the opening: the intent stays."""
    words = text.split(" ")
    if len(words) > 3:
        words = [word for word in words if rng.random() > 0.08] or words
    if len(words) > 3 and rng.random() < 0.2:
        index = rng.randrange(len(words) - 1)
        words[index], words[index + 1] = words[index + 1], words[index]
    changed = " ".join(words)
    if rng.random() < 0.15:
        changed = rng.choice(_OPENINGS) + changed
    if rng.random() < 0.3:
        changed = changed.lower()
    elif rng.random() < 0.3:
        changed = changed[:1].upper() + changed[1:]
    if rng.random() < 0.2:
        changed = changed.rstrip("?.!")
    elif rng.random() < 0.1 and changed[-1:].isalnum():
        changed += "?"
    return changed


def read_dialogue_state(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """The first user turn of a dialogue with one service, answered by its state."""
    for record in records:
        turn = record["turns"][0]
        if turn["speaker"] == "user" and len(turn["state"]) == 1:
            state = turn["state"][0]
            answer = answer_json(state["intent"], in_order_of_text(turn["text"], state["slots"]))
            yield [write_request(turn["text"], answer, _task(source), index) for index in range(8)]


def read_dialogue_turns(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """All turns of a dialogue as plain text."""
    for record in records:
        yield [plain("\n".join(turn["text"] for turn in record["turns"]))]


def read_out_of_scope(
    records: Iterable[Record], source: Source, context: ReadContext
) -> Iterator[list[Variant]]:
    """Requests that none of the intents covers, answered with the intent `oos`.

    Dialogues (option `services`: the first turn of those with these only), questions about the
    titles of an encyclopaedia (option `questions`: patterns with `{}`), questions in running text
    (option `asked_in_text`), or else every record's text.
    """
    task = _task(source)
    for number, record in enumerate(records):
        rng = random.Random(f"outside {source.file} {number}")
        for text in _out_of_scope_texts(record, source, rng):
            requests = [text.lower(), disturb(text, rng), disturb(text, rng), text.lower()] * 2
            yield [
                write_intent_request(request, OUT_OF_SCOPE, task, index)
                for index, request in enumerate(requests)
            ]


def _out_of_scope_texts(record: Record, source: Source, rng: random.Random) -> Iterator[str]:
    options = source.options
    if "services" in options:
        if set(options["services"]).issuperset(record["services"]):
            yield record["turns"][0]["text"]
    elif "questions" in options:
        yield rng.choice(options["questions"]).format(record["title"].lower())
    elif "asked_in_text" in options:
        for match in _QUESTION.finditer(record["text"]):
            text = " ".join(match.group().split())
            if not _PERSONAL.search(text):
                yield text
    else:
        yield record["text"]


def _task(source: Source) -> str:
    return str(source.options.get("task", ""))


READERS: dict[str, Reader] = {
    "snips": read_snips,
    "intents": read_intents,
    "dialogue-state": read_dialogue_state,
    "dialogue-turns": read_dialogue_turns,
    "out-of-scope": read_out_of_scope,
}
