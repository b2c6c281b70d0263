"""Spoken requests to JSON: rows of SNIPS as chats, in the form that pilotfish answers, and the
requests that were held out of both models' training."""

import json
import random
from pathlib import Path

from models.recipes.pilotfish.answers import answer_json, slots_object
from models.recipes.pilotfish.evaluate import SNIPS_FILE, Case, Messages
from shoal.train.corpora import read_records
from shoal.train.pieces import Record

SYSTEM = "snips"
"""The system text that names the label set."""
NUM_ROWS = 2000


def write_rows(path: Path, data: Path, count: int, seed: int) -> None:
    """Requests of the training split that are in no other, chosen at random, as JSONL with
    `messages`."""
    records = list(read_records(data / SNIPS_FILE))
    held_out = {record["text"] for record in records if record["split"] != "train"}
    records = [record for record in records if record["text"] not in held_out]
    with path.open("w", encoding="utf-8") as out:
        for record in random.Random(seed).sample(records, count):
            answer = {"role": "assistant", "content": _answer(record)}
            messages = [*_request(record), answer]
            out.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def held_out_cases(data: Path) -> list[Case]:
    """All requests of the validation split, as pilotfish's evaluation asks them."""
    records = read_records(data / SNIPS_FILE)
    return [
        Case(_request(record), json.loads(_answer(record)))
        for record in records
        if record["split"] == "validate"
    ]


def _request(record: Record) -> Messages:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": record["text"]}]


def _answer(record: Record) -> str:
    return answer_json(record["intent"], slots_object(record["slots"]))
