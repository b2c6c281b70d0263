"""minnow's formats: what a document contains, and what its variants must keep."""

from __future__ import annotations

from pathlib import Path

from models.recipes.minnow.readers import (
    read_books,
    read_encyclopaedia,
    read_stories,
    restore_capitals,
)
from shoal.train.config import Source
from shoal.train.pieces import ReadContext, Variant

CONTEXT = ReadContext(Path(), ())


def request_of(variant: Variant) -> str:
    user = next(segment.text for segment in variant if segment.text.startswith("<|user|>"))
    return user.removeprefix("<|user|>").removesuffix("<|end|>")


def test_stories_are_read_plain_and_as_answers_some_with_another_name() -> None:
    stories = [f"There was a cat named {name}. {name} was sad." for name in ("Tim", "Max", "Tom")]
    records = [{"text": story} for story in stories]
    for story, variants in zip(
        stories, read_stories(records, Source(file="s"), CONTEXT), strict=True
    ):
        assert variants[0][1].text == story + "<|endoftext|>"
        asked = [variant for variant in variants if len(variant) > 2]
        assert len(asked) >= len(variants) / 2
        assert {answer[-1].text.removesuffix("<|end|>") for answer in asked} <= set(stories)
        for variant in asked:
            for name in ("Tim", "Max", "Tom"):
                assert name not in request_of(variant) or name in variant[-1].text


def test_capitals_come_back_at_starts_names_and_i() -> None:
    text = restore_capitals('once tim sat. "i am mom," said tim. he ran.', {"tim": "Tim"})
    assert text == 'Once Tim sat. "I am mom," said Tim. He ran.'


def test_books_are_cut_at_headings_and_lines_are_joined() -> None:
    part = "A fox saw\nsome grapes. " * 12
    chapters = list(
        read_books([{"text": f"## ONE\n\n{part}\n\n## TWO\n\n{part}"}], Source(file="b"), CONTEXT)
    )
    assert len(chapters) == 2
    assert chapters[0][0][1].text.startswith("A fox saw some grapes. A fox saw some grapes.")


def test_articles_give_whole_first_sentences() -> None:
    lead = "Hirta is an island. " + "It lies far out in the sea and nobody lives there now. " * 20
    record = {"text": lead + "More.", "lead_chars": len(lead)}
    ((variant,),) = read_encyclopaedia([record], Source(file="w"), CONTEXT)
    text = variant[1].text.removesuffix("<|endoftext|>")
    assert lead.startswith(text)
    assert text.endswith("now.")
    assert 500 < len(text) <= 600
