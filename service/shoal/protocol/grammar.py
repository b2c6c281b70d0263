"""What a grammar may cost; the HTTP side compiles with the same limits as the engine."""

from typing import Final, TypedDict

COPY_TOKEN: Final = "<|x-copy|>"
"""In a grammar it stands for words of `SamplingParams.copy_text`, the content of a JSON string."""


class ParserLimits(TypedDict):
    """Arguments of llguidance's `LLParserLimits`."""

    max_grammar_size: int
    initial_lexer_fuel: int
    step_lexer_fuel: int
    step_max_items: int
    max_lexer_states: int
    verbose_errors: bool


PARSER_LIMITS: ParserLimits = {
    "max_grammar_size": 500_000,
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 100_000,
    "verbose_errors": False,
}
