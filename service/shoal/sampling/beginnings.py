"""How an answer begins under grammars that share their rules, whatever their prompts say.

Such grammars differ in the rule `copy` only, a string of JSON that may begin in at least two ways.
A wide one, whose copies are any strings, is compiled once. Up to the first copy all of them force
the same text, and none beyond. The last tokens of that text are left open where longer ones may
come, which the wide grammar allows more of: so the tokens that it forces are the first of those
that each of the others does. A sequence can take them before its own grammar is compiled.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shoal.protocol.grammar import PARSER_LIMITS, ParserLimits

if TYPE_CHECKING:
    from llguidance import LLMatcher

_ANY_COPY = r"""
copy: "\"" COPIED "\""
COPIED: /([^"\\\x00-\x1f]|\\.)+/
"""

LIMITS: ParserLimits = {**PARSER_LIMITS, "max_grammar_size": 1000, "initial_lexer_fuel": 10_000}
"""Of the wide grammar: a step may wait for one with these rules, so it must compile in some ten
milliseconds, and within its own limits whatever the words of its prompt."""


def find_beginning(rules: str, compile_grammar: Callable[[str], "LLMatcher"]) -> list[int]:
    """Ids of tokens that every grammar with these rules forces first; none where a copy is first,
    all is forced, or the rules take long to compile. `rules`: see `SamplingParams.grammar_rules`.
    """
    grammar = json.dumps({"grammars": [{"lark_grammar": rules + _ANY_COPY}]})
    matcher = compile_grammar(grammar)
    if matcher.is_error():
        return []
    forced = list(matcher.compute_ff_tokens())
    matcher.consume_tokens(forced)
    return [] if matcher.is_stopped() else forced


class LateMatcher:
    """What a row asks of its matcher at the beginning, which is known before it is made."""

    def __init__(self, beginning: list[int], make: Callable[[], "LLMatcher"]) -> None:
        self._beginning = beginning
        self._make = make

    def is_stopped(self) -> bool:
        """Something always follows the beginning."""
        return False

    def compute_ff_tokens(self) -> list[int]:
        """The beginning."""
        return self._beginning

    def consume_tokens(self, token_ids: Sequence[int]) -> None:
        """The beginning; it is all that may be consumed."""

    def finish(self) -> "tuple[LLMatcher, list[int]]":
        """Makes the matcher. Returns it behind all that it forces first, and what of that follows
        the beginning."""
        matcher = self._make()
        forced = list(matcher.compute_ff_tokens())
        matcher.consume_tokens(forced)
        return matcher, forced[len(self._beginning) :]
