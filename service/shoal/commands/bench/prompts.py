"""Prompts made of common English words: deterministic for a seed, different for each request.

Prompts start differently, so that a prefix cache does not improve the results; `shared_prefix`
words put a common prefix before all of them, to measure that cache.
"""

import random

_TEXT = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work number night point home
water room mother area money story fact month lot right study book eye job word business issue side
kind head house service friend father power hour game line end member law car city name team minute
idea body back parent face level office door health person art war history party result change
morning reason research girl guy moment air teacher force river garden little yellow green quiet
happy small early open bright cold warm simple strong bird tree stone bread apple table window
paper letter song road hill sea boat horse dog cat
"""
WORDS = tuple(_TEXT.split())


def make_prompt(seed: int, label: str, num_words: int, shared_prefix: int = 0) -> str:
    """`shared_prefix` words that depend only on the seed, then `num_words` that also depend on
    `label`, the name of the request."""
    shared = random.Random(f"{seed}:shared").choices(WORDS, k=shared_prefix)
    own = random.Random(f"{seed}:{label}").choices(WORDS, k=num_words)
    return " ".join(shared + own)
