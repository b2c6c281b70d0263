"""What minnow is asked to write: the twenty stories of its card, always the same requests and none
selected afterwards; and stories about the subjects of held-out stories."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .story_requests import extract_features, subject_of, word_rarity

PROMPTS = (
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
)  # (what the user asks, or None for a completion; how the text begins)


class GeneratedStory(NamedTuple):
    """A story, and whether the model ended it within its length limit."""

    text: str
    ended: bool


Generate = Callable[[str | None, str, int], GeneratedStory]
"""(request or None, beginning, seed) -> story."""


def sample_stories(generate: Generate) -> list[dict[str, str]]:
    """The twenty samples of the card, one seed each: {"request", "text"}."""
    return [
        {"request": request or beginning, "text": generate(request, beginning, seed).text}
        for seed, (request, beginning) in enumerate(PROMPTS)
    ]


def held_out_subjects(texts: Iterable[str], count: int) -> list[str]:
    """One subject each of the first `count` texts that have one: `a bird who could not fly`."""
    texts = list(texts)
    rarity = word_rarity(texts)
    subjects = (subject_of(extract_features(text, rarity), random.Random(text)) for text in texts)
    return [subject for subject in subjects if subject][:count]
