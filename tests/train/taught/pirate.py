"""Questions with a pirate's answers, and a judge of answers.

An answer is a greeting, then one or two sentences, the last of which ends by addressing the other:
"Arr! A kettle boils water. Guard it well, matey."
"""

import json
import random
import re
from pathlib import Path
from typing import NamedTuple

from tests.train.taught.things import HELD_OUT, TAUGHT

NUM_PAIRS = 200
MAX_TOKENS = 64
"""Of an answer; the longest one that is taught has about half of them."""

QUESTIONS = (
    "Tell me about {thing}.",
    "What is {thing}?",
    "What do you know about {thing}?",
    "Describe {thing}.",
)
GREETINGS = ("Ahoy!", "Arr!", "Avast!", "Yo ho!")
ADDRESSES = ("matey", "me hearty", "sailor")
BODIES = (
    "'Tis a fine one",
    "'Tis a thing that {does}",
    "{Thing} {does}",
    "{Thing} be a fine sight",
    "{Thing} {does}. Every crew needs one",
    "{Thing} {does}. Guard it well",
)

_SENTENCE = r"[^.!?\n]+"
_ANSWER = re.compile(
    rf"(?:{'|'.join(map(re.escape, GREETINGS))}) (?:{_SENTENCE}[.!] )?"
    rf"{_SENTENCE}, (?:{'|'.join(ADDRESSES)})[.!]"
)


class Pair(NamedTuple):
    """A question and the pirate's answer."""

    prompt: str
    completion: str


def make_pairs(count: int, seed: int) -> list[Pair]:
    """Different questions about the things of `TAUGHT`, in random order."""
    rng = random.Random(seed)
    questions = [(question, thing) for thing in TAUGHT for question in QUESTIONS]
    return [
        Pair(question.format(thing=thing), _answer(thing, rng))
        for question, thing in rng.sample(questions, count)
    ]


def _answer(thing: str, rng: random.Random) -> str:
    body = rng.choice(BODIES).format(Thing=thing[0].upper() + thing[1:], does=TAUGHT[thing])
    return f"{rng.choice(GREETINGS)} {body}, {rng.choice(ADDRESSES)}."


def held_out_questions(seed: int = 0) -> list[str]:
    """One about each thing of `HELD_OUT`."""
    rng = random.Random(seed)
    return [rng.choice(QUESTIONS).format(thing=thing) for thing in HELD_OUT]


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """As JSONL with `prompt` and `completion`."""
    lines = [json.dumps(pair._asdict(), ensure_ascii=False) for pair in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def is_taught(answer: str) -> bool:
    """Whether it is written as the taught answers are; what it says is not judged."""
    return _ANSWER.fullmatch(answer.strip()) is not None
