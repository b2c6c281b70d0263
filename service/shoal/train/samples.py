"""The twenty stories of a prose model's card: the same requests every time, none chosen."""

from __future__ import annotations

from collections.abc import Callable

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
TellStory = Callable[[str | None, str, int], str]  # request or None, beginning, seed -> text


def write_stories(tell: TellStory) -> list[Story]:
    """The twenty samples of a card: not chosen, one seed each."""
    return [
        {"request": request or beginning, "text": tell(request, beginning, seed)}
        for seed, (request, beginning) in enumerate(STORIES)
    ]
