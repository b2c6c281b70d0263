"""How an answer begins under grammars that share their rules, whatever their prompts say.

Such grammars differ in the rule `copy` only, a string of JSON. Two bounds are compiled once: in the
wide one a copy is any string, in the narrow one a byte that no string holds. A prompt's grammar
lies between: it allows nothing that the wide one does not, and all that the narrow one does but
that byte. So where both bounds force the same tokens it forces them too, and a sequence can take
them before its own grammar is compiled.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shoal.protocol.grammar import PARSER_LIMITS, ParserLimits

if TYPE_CHECKING:
    from llguidance import LLMatcher

NO_STRING = b"\x01"
"""JSON escapes it."""
_COPY = 'copy: "\\"" COPIED "\\""\nCOPIED: '
_WIDE = _COPY + r'/([^"\\\x00-\x1f]|\\.)+/'
_NARROW = _COPY + r"/\x01/"

LIMITS: ParserLimits = {**PARSER_LIMITS, "max_grammar_size": 1000, "initial_lexer_fuel": 10_000}
"""Of the bounds: a step may wait for a grammar with these rules, so it must compile in some ten
milliseconds, and within its own limits whatever the words of its prompt."""


def find_beginning(rules: str, compile_grammar: Callable[[str], "LLMatcher"]) -> list[int]:
    """Ids of the tokens that every grammar with these rules forces first; none where they depend on
    the prompt, or the bounds do not compile. `rules`: see `SamplingParams.grammar_rules`."""
    forced: list[list[int]] = []
    for bound in (_WIDE, _NARROW):
        grammar = json.dumps({"grammars": [{"lark_grammar": f"{rules}\n{bound}"}]})
        matcher = compile_grammar(grammar)
        if matcher.is_error() or matcher.is_stopped():
            return []
        forced.append(list(matcher.compute_ff_tokens()))
        matcher.consume_tokens(forced[-1])
        if matcher.is_stopped():
            return []
    return forced[0] if forced[0] == forced[1] else []


def tells_strings_apart(token_bytes: Sequence[bytes]) -> bool:
    """Does no token hold the byte of the narrow bound beside others? Else the bounds say nothing of
    the tokens between them."""
    return all(NO_STRING not in text or text == NO_STRING for text in token_bytes)


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

    def finish(self) -> "LLMatcher":
        """Makes the matcher, behind the beginning."""
        matcher = self._make()
        matcher.consume_tokens(self._beginning)
        return matcher
