"""What a prose model is asked to write: the twenty stories of its card, the same requests every
time and none chosen; and stories about what held-out stories are about."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from shoal.train.requests import find_features, rarity, subject_of

STORIES = (
    *(
        (None, beginning)
        for beginning in (
            "Once upon a time",
            "One day, a little girl named Lily",
            "Tom had a red ball.",
            "The old dog was tired.",
            "It was raining and Sara could not go out.",
            "There was a bird who was afraid to fly.",
            "Ben and Mia found a box in the garden.",
            "A small fish lived in a big lake.",
            "Mom made a cake.",
            "In the forest there was a house",
        )
    ),
    *(
        (f"Tell me a story about {subject}.", "")
        for subject in (
            "a cat named Max",
            "a boy who lost his shoe",
            "two friends and a boat",
            "a bear who wanted honey",
            "a brave little mouse",
            "a girl and her grandmother",
            "a tree that could talk",
            "a frog in the rain",
            "sharing toys",
            "a lost kitten",
        )
    ),
)  # (what the user asks, or None; how the text begins)
Story = dict[str, str]


class Told(NamedTuple):
    """A story, and whether the model ended it."""

    text: str
    ended: bool


TellStory = Callable[[str | None, str, int], Told]  # request or None, beginning, seed -> story


def write_stories(tell: TellStory) -> list[Story]:
    """The twenty samples of a card: not chosen, one seed each."""
    return [
        {"request": request or beginning, "text": tell(request, beginning, seed).text}
        for seed, (request, beginning) in enumerate(STORIES)
    ]


def held_out_subjects(texts: Iterable[str], count: int) -> list[str]:
    """One subject each of the first `count` texts that have one: `a bird who could not fly`."""
    texts = list(texts)
    rare = rarity(texts)
    found = (subject_of(find_features(text, rare), random.Random(text)) for text in texts)
    return [subject for subject in found if subject][:count]
