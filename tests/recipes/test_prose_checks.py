"""Shuffling keeps every sentence, copied and repeated runs are counted, and so is what a story
mentions of its subject."""

from tokenizers import Tokenizer

from models.recipes.minnow.prose_checks import (
    copied_share,
    mentioned_words,
    ngram_bits_per_byte,
    repeated_share,
    shuffle_sentences,
)
from models.recipes.minnow.samples import PROMPTS, GeneratedStory, held_out_subjects, sample_stories
from shoal.train.config import TokenizerChoice
from shoal.train.tokenizer import train_tokenizer

_STORY = 'Tom had a ball. He lost it! "Where is it?" he said. Mia found the ball.\nThey were happy.'


def tokenizer() -> Tokenizer:
    return train_tokenizer([_STORY] * 3, TokenizerChoice(vocab_size=300))


def test_shuffling_keeps_the_sentences_and_changes_their_order() -> None:
    shuffled = [shuffle_sentences(_STORY, seed) for seed in range(8)]
    for text in shuffled:
        assert sorted(text.split()) == sorted(_STORY.split())
        for sentence in ("Tom had a ball.", "He lost it!", "They were happy."):
            assert sentence in text
    assert len(set(shuffled)) > 3
    assert shuffle_sentences(_STORY, 1) == shuffled[1]


def test_copied_runs_are_those_of_eight_words_in_a_row() -> None:
    training = ["one two three four five six seven eight nine ten"]
    assert copied_share(["ONE two, three four five six seven eight!"], training) == 1.0
    assert copied_share(["one two three four five six seven nine"], training) == 0.0
    assert copied_share(["x one two three four five six seven eight y"], training) == 1 / 3
    assert copied_share(["too short"], training) == 0.0


def test_a_story_mentions_words_of_its_subject_in_any_form() -> None:
    assert mentioned_words("a cat named Max", "Max was a good cat.") == (2, 2)
    assert mentioned_words("a cat named Max", "Lucy was a girl.") == (0, 2)
    assert mentioned_words("sharing toys", "They shared the toy.") == (1, 2)
    assert mentioned_words("two friends and a boat", "The boat sank.") == (1, 1)


def test_repeated_runs_are_those_that_stood_in_the_same_text() -> None:
    assert repeated_share(["one two three four five six"]) == 0.0
    assert repeated_share(["a b c d", "a b c d"]) == 0.0
    assert repeated_share(["a b c d a b c d"]) == 1 / 5


def test_held_out_stories_give_subjects_that_they_mention_themselves() -> None:
    texts = [_STORY, "Nothing.", "There was a bird named Pip. Pip could not fly."]
    subjects = held_out_subjects(texts, 5)
    assert len(subjects) == 2
    mentioned, total = mentioned_words(subjects[1], texts[2])
    assert mentioned == total > 0


def test_seen_text_is_cheaper_than_unseen_for_the_ngram_model() -> None:
    unseen = "A dog ran. It was big!"
    costs = ngram_bits_per_byte([_STORY], {"seen": [_STORY], "unseen": [unseen]}, tokenizer())
    assert 0 < costs["seen"] < 2 < costs["unseen"]


def test_the_samples_are_twenty_each_with_its_own_seed() -> None:
    stories = sample_stories(
        lambda request, beginning, seed: GeneratedStory(f"{beginning}|{request}|{seed}", True)
    )
    assert len(stories) == len(PROMPTS) == 20
    assert [story["text"].rsplit("|", 1)[1] for story in stories] == [str(n) for n in range(20)]
    assert all(story["request"] for story in stories)
