"""Checks of a prose model beyond bits per byte: does the order of sentences matter to it, does it
write or recite, does it write what was asked for and not the same again? Works on texts; asks no
model itself."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer

from shoal.train.ngram import NgramModel

RUN_WORDS = 8
# Words of a subject that a story may follow without saying them.
_UNSAID = re.compile(
    r"an?|the|and|or|in|on|at|of|to|with|for|by|from|who|that|was|were|is|are|be|been|being|could|"
    r"did|do|does|had|has|have|not|no|his|her|their|its|my|some|two|named|called|very|friends"
)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"']?)?\s*")


def shuffle_sentences(text: str, seed: int = 0) -> str:
    """The same sentences in random order: words keep their neighbours, only what happened before
    what is lost. A model that looks back a few words hardly notices."""
    sentences = [found.strip() for found in _SENTENCE.findall(text) if found.strip()]
    random.Random(f"{seed} {text}").shuffle(sentences)
    return " ".join(sentences)


def copied_share(texts: Iterable[str], training: Iterable[str], run: int = RUN_WORDS) -> float:
    """Share of runs of so many words in `texts` that occur somewhere in `training`; 0 to 1."""
    known = {found for text in training for found in _runs(text, run)}
    own = [found in known for text in texts for found in _runs(text, run)]
    return sum(own) / max(1, len(own))


def said_words(subject: str, text: str) -> tuple[int, int]:
    """How many of the telling words of a subject a story says, and how many there are. Another
    ending of the word counts too: `sharing`, `shared`."""
    told = _words(text)
    wanted = [word for word in _words(subject) if not _UNSAID.fullmatch(word)]
    stems = [word[: max(4, len(word) - 3)] for word in wanted]
    said = [any(word.startswith(stem) for word in told) for stem in stems]
    return sum(said), len(said)


def repeated_share(texts: Iterable[str], run: int = 4) -> float:
    """Share of runs of so many words that stood earlier in the same text; 0 to 1."""
    runs = again = 0
    for text in texts:
        found = list(_runs(text, run))
        runs += len(found)
        again += len(found) - len(set(found))
    return again / max(1, runs)


def ngram_bits_per_byte(
    training: Sequence[str], held_out: Mapping[str, Sequence[str]], tokenizer: Tokenizer
) -> dict[str, float]:
    """Bits per byte of each set of texts by a Kneser-Ney model of order 5 trained on `training`,
    over the same tokens and with the same end token (id 0) as the network."""
    model = NgramModel(_encode(training, tokenizer), tokenizer.get_vocab_size())
    return {
        name: model.bits_per_byte(
            _encode(texts, tokenizer), sum(len(text.encode()) for text in texts)
        )
        for name, texts in held_out.items()
    }


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [[*found.ids, 0] for found in encoded]


def _runs(text: str, run: int) -> Iterable[str]:
    words = _words(text)
    return (" ".join(words[start : start + run]) for start in range(len(words) - run + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", text.lower())
