"""Grammars followed through random tokens, asked about each or not."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.sampling.free_text import FreeText
from shoal.sampling.grammars import Grammars
from shoal.sampling.lead_text import LeadText
from shoal.sampling.processors.grammar import Grammar

END_ID = 256
WORDS = ["the", " the", " red", "den", "an", "and", " é", "😀a", "na", "name", ' "', '",', '"}',
         '":"', '","', "\\n", "zq", "12", "tr", "true", "[\"", "ill",
         "<tool", "_call", ">", "tool_call>", "<tool_call>\n", "a<", "[TOOL", "_CALLS][", "::",
         "\n\n"]  # fmt: skip
TOKENS = [*(bytes([byte]) for byte in range(256)), b"<end>", *(word.encode() for word in WORDS),
          b"\xc3", b"\xa9a", b"the"]  # fmt: skip
NUM_IDS = len(TOKENS)


def encode(text: str) -> list[int]:
    return list(text.encode())


class Counting:
    """A matcher that counts what it is asked and told, but for what costs nothing."""

    def __init__(self, matcher: Any) -> None:
        self._matcher, self.num_calls = matcher, 0

    def __getattr__(self, name: str) -> Any:
        self.num_calls += name not in (
            "place",
            "go",
            "is_followed",
            "leave_word",
            "consume_free_text",
        )
        return getattr(self._matcher, name)


def make(
    grammars: Grammars, grammar: str, free_text: FreeText | LeadText | None, **how: bool
) -> tuple[Grammar, Counting]:
    assert grammars.prepare(grammar).result() is None
    shares_with = "all" if free_text else "those without"  # what they find differs
    matcher = Counting(grammars.memory(grammar, shares_with).beginning.deep_copy())
    ambiguous_ids = grammars.ambiguous_ids
    made = Grammar(
        matcher,  # type: ignore[arg-type]
        (END_ID,), NUM_IDS, ambiguous_ids=ambiguous_ids, free_text=free_text, **how,
    )  # fmt: skip
    return made, matcher


def allowed(grammar: Grammar) -> list[int]:
    bits = np.unpackbits(grammar.allow_mask.view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


def walk(
    grammars: Grammars,
    grammar: str,
    seed: int,
    *,
    num_tokens: int = 60,
    pieces: Sequence[int] = range(END_ID, NUM_IDS),
    texts: Sequence[str] = (),
) -> int:
    """Follows random tokens with four grammars: each is asked or shows its mask, with free text or
    without. How many of the tokens came without a question to a matcher. `pieces`: of texts that
    the grammar knows. `texts`: to be said where they may."""
    rng = random.Random(seed)
    free_text = grammars.compiled(grammar).free_text
    masked, _ = make(grammars, grammar, None, takes=False)
    free_masked, _ = make(grammars, grammar, free_text, takes=False)
    free, matcher = make(grammars, grammar, free_text, takes=True, rejects=True)
    num_free = 0
    wanted = rng.choice(texts).encode() if texts else b""
    for _ in range(num_tokens):
        assert masked.ended == free_masked.ended
        if masked.ended:
            break
        ids = allowed(masked)
        assert allowed(free_masked) == ids
        if forced := free.take_forced(3):
            for token_id in forced:
                masked.accept(token_id)
                free_masked.accept(token_id)
                wanted = wanted.removeprefix(TOKENS[token_id])
            continue
        token_id = rng.choice([*ids, *rng.sample(ids, min(3, len(ids))), *pieces])
        if texts:
            wanted = wanted or rng.choice(texts).encode()
            known = ids if rng.random() < 0.7 else range(NUM_IDS)
            fitting = [i for i in known if TOKENS[i] and wanted.startswith(TOKENS[i])]
            token_id = rng.choice(fitting or [token_id])
            wanted = wanted[len(TOKENS[token_id]) :] if fitting else b""
        before = matcher.num_calls
        assert free.admits(token_id) == (token_id in ids), (TOKENS[token_id], seed)
        if token_id not in ids:
            if rng.random() < 0.5:
                assert allowed(free) == ids
            long = [i for i in ids if len(TOKENS[i]) > 1] or ids
            token_id = rng.choice(long)
            assert free.admits(token_id)
        for each in (masked, free_masked, free):
            each.accept(token_id)
        num_free += matcher.num_calls == before
        assert not free.failed
    return num_free
