"""10,000 varied texts for comparing tokenizers: prose, code, chats, other scripts, odd spaces."""

import json
import lzma
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

SHARED = Path(__file__).parents[3] / "shared" / "data"
NUM_TEXTS = 10_000
_CORPORA = ("wikinews-en", "nl2bash", "tldr-pages-en", "children-classics", "gsm8k-train",
            "snips-slots", "wikipedia-core")  # fmt: skip
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz  ",
    "ABC xyz 019 .,;:!?'\"-_()[]{}<>/\\|@#$%^&*+=~`",
    " \t\n\r\u00a0\u2003\u3000\u200b",
    "äöüßéèêçñøåæœ ÀÉÎ",
    "абвгдежз ийклмн",
    "αβγδε ζηθ",
    "漢字かなカナ한국어",
    "שלום עולם",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "🙂🚀👩‍👩‍👧‍👦🏳️‍🌈",
    "٠١٢३४५ⅣⅫ½²³",
    "e\u0301a\u0308n\u0303ﬁﬀ①㎏",
    "''s't're've'm'll'd I'LL We'Ve",
    "\u2581<0x41>##[PAD1]",
    "0123456789",
    "\x00\x01\x1f\x7f\x85\u2028",
    "𝒳𝔘𐍈😀",
)
_CODE = (
    "def f(x):\n    return x ** 2  # ok\n",
    "if (a && !b) {\n\t\tc += 1;\n}\r\n",
    "SELECT * FROM t;",
    '<a href="x">y</a>',
    "https://example.org/a_b?c=1&d=%20",
    "\n\n\n  \n x",
    "   leading",
    "trail   ",
    "a" * 200,
    "CamelCaseHTTPServer2Go",
    "3.14159e-10 0x1F 1_000_000",
    "...!!!???---___",
    "\\n\\t\\u00e9",
)


@cache
def varied_texts() -> tuple[str, ...]:
    """The same every time."""
    rng = np.random.default_rng(7)
    texts = ["", " ", "\n", "  ", *_CODE]
    for name in _CORPORA:
        texts += islice(_lines(SHARED / "corpora" / f"{name}.jsonl.xz"), 800)
    while len(texts) < NUM_TEXTS:
        parts = [_random_part(rng) for _ in range(rng.integers(1, 6))]
        texts.append("".join(parts))
    return tuple(texts[:NUM_TEXTS])


def _random_part(rng: np.random.Generator) -> str:
    if rng.random() < 0.2:
        return _CODE[rng.integers(len(_CODE))]
    alphabet = _ALPHABETS[rng.integers(len(_ALPHABETS))]
    return "".join(alphabet[i] for i in rng.integers(0, len(alphabet), rng.integers(1, 12)))


def _lines(path: Path) -> Iterator[str]:
    """Pieces of the texts, of at most 200 characters, cut anywhere."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in islice(file, 4000):
            for value in json.loads(line).values():
                if isinstance(value, str) and len(value) > 20:
                    start = len(value) * 7 % max(1, len(value) - 200)
                    yield value[start : start + 200]
