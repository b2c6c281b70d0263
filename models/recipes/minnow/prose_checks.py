"""Figures of a story model beyond bits per byte: does the order of sentences matter to it, does it
recite its training texts, does it write what was asked for, does it repeat itself?

All functions work on texts; none asks a model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer

from .ngram import NgramModel

RUN_WORDS = 8
# Words of a subject that a story about it need not contain.
_UNCOUNTED = re.compile(
    r"an?|the|and|or|in|on|at|of|to|with|for|by|from|who|that|was|were|is|are|be|been|being|could|"
    r"did|do|does|had|has|have|not|no|his|her|their|its|my|some|two|named|called|very|friends"
)
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"']?)?\s*")


def shuffle_sentences(text: str, seed: int = 0) -> str:
    """The same sentences in random order: words keep their neighbours, only the order of events is
    lost. A model that sees only a few words back hardly notices."""
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(text) if sentence.strip()]
    random.Random(f"{seed} {text}").shuffle(sentences)
    return " ".join(sentences)


def copied_share(texts: Iterable[str], training: Iterable[str], run: int = RUN_WORDS) -> float:
    """Share of runs of so many words in `texts` that occur somewhere in `training`; 0 to 1."""
    known = {words for text in training for words in _runs(text, run)}
    is_copied = [words in known for text in texts for words in _runs(text, run)]
    return sum(is_copied) / max(1, len(is_copied))


def mentioned_words(subject: str, text: str) -> tuple[int, int]:
    """(how many content words of a subject a story contains, how many there are). Another ending of
    a word counts too: `sharing`, `shared`."""
    words = _words(text)
    content = [word for word in _words(subject) if not _UNCOUNTED.fullmatch(word)]
    stems = [word[: max(4, len(word) - 3)] for word in content]
    mentioned = [any(word.startswith(stem) for word in words) for stem in stems]
    return sum(mentioned), len(mentioned)


def repeated_share(texts: Iterable[str], run: int = 4) -> float:
    """Share of runs of so many words that occurred earlier in the same text; 0 to 1."""
    num_runs = num_repeated = 0
    for text in texts:
        runs = list(_runs(text, run))
        num_runs += len(runs)
        num_repeated += len(runs) - len(set(runs))
    return num_repeated / max(1, num_runs)


def ngram_bits_per_byte(
    training: Sequence[str], held_out: Mapping[str, Sequence[str]], tokenizer: Tokenizer
) -> dict[str, float]:
    """Bits per byte of each set of texts under a Kneser-Ney model of order 5 trained on `training`,
    over the same tokens and with the same end token (id 0) as the network."""
    model = NgramModel(_encode(training, tokenizer), tokenizer.get_vocab_size())
    return {
        name: model.bits_per_byte(
            _encode(texts, tokenizer), sum(len(text.encode()) for text in texts)
        )
        for name, texts in held_out.items()
    }


def _encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [[*encoding.ids, 0] for encoding in encodings]


def _runs(text: str, run: int) -> Iterable[str]:
    words = _words(text)
    return (" ".join(words[start : start + run]) for start in range(len(words) - run + 1))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", text.lower())
