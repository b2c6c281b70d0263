"""The grammars of one model: compiled beside the steps, kept by their text, copied for each row.

llguidance is imported, and its trie of the model's tokens built, when the first one is needed.
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from shoal.protocol.grammar import COPY_TOKEN, PARSER_LIMITS
from shoal.sampling.copies import CopyText
from shoal.sampling.copy_matcher import CopyMatcher
from shoal.sampling.free_text import FreeText, free_text_in, free_text_of
from shoal.sampling.lead_text import LeadText, Mark, lead_text_of, marks_in
from shoal.sampling.matcher import Matcher
from shoal.sampling.memories import Beginning, Memories, Memory
from shoal.sampling.token_table import TokenTable

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT = 64
_KEPT_CHARS = 4 << 20
"""Of all grammars together; what a matcher needs grows with its grammar."""
_KEPT_COPY_TEXTS = 16
"""A few: those of the answers to one request, and of long texts that wait for their row."""
_KEPT_COPY_CHARS = 256 << 10
"""Of them together; each needs some twenty bytes."""
_KEPT_TEXTS = 4096
"""Forced texts whose tokens are kept: the names of a schema come in every answer."""
_SHORT_TEXT = 100
"""Characters; longer ones are not kept."""
_SHORT_COPY_TEXT = 1000
"""Characters; longer texts to copy from are made ready beside the steps."""


Kept = TypeVar("Kept")


class Vocabulary(NamedTuple):
    """The tokens of a model, as a grammar sees them."""

    token_bytes: Sequence[bytes]
    """What each id adds to a text; empty for one that no text has."""
    special_ids: Sequence[int]
    encode: Callable[[str], Sequence[int]]
    """Ids of a text inside another: no special tokens, nothing before it or after."""


class Compiled(NamedTuple):
    """A grammar for this model."""

    matcher: "LLMatcher"
    """At the grammar's beginning; never changed. One that is wrong is in its error state."""
    free_text: FreeText | LeadText | None
    """None where the grammar may have no free text."""


class Grammars:
    """Thread-safe, but for what rows leave to each other: that is for the thread that steps."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary], *, learns: bool = False) -> None:
        """`read_vocabulary` is called once, in the thread that compiles. It may raise
        ModelFolderError. `learns`: do rows learn from each other what they may expect?"""
        self.learns = learns
        self._read_vocabulary = read_vocabulary
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._copy_texts: OrderedDict[str, CopyText] = OrderedDict()
        self._memories = Memories()
        self._last_lead: tuple[tuple[Mark, ...], LeadText] | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")

    def prepare(self, grammar: str, copy_text: str | None = None) -> "Future[str | None]":
        """What is wrong with the grammar for this model; None when rows may have it. `copy_text`:
        see `SamplingParams`."""
        with self._lock:
            is_ready = grammar in self._compiled and (
                copy_text is None
                or len(copy_text) <= _SHORT_COPY_TEXT
                or copy_text in self._copy_texts
            )
        if is_ready:
            ready: Future[str | None] = Future()
            ready.set_result(None)
            return ready
        return self._thread.submit(self._prepare, grammar, copy_text)

    def compiled(self, grammar: str) -> Compiled:
        """Once it has been prepared."""
        with self._lock:
            if (compiled := self._compiled.get(grammar)) is not None:
                self._compiled.move_to_end(grammar)
                return compiled
        return self._compile(grammar)  # it was dropped meanwhile

    def memory(self, grammar: str, shares_with: str | None) -> Memory:
        """Of those that share with each other what they find; None: with nobody."""
        return self._memories.get(grammar, shares_with, lambda: self._beginning(grammar))

    def matcher(self, copy_text: str | None, memory: Memory) -> Matcher | CopyMatcher:
        """At a grammar's beginning, for one sequence."""
        matcher = memory.beginning.deep_copy()
        return matcher if copy_text is None else CopyMatcher(matcher, self.copy_text(copy_text))

    def forget(self) -> None:
        """What sequences have found and said; those that run keep theirs."""
        self._memories.clear()

    def copy_text(self, text: str) -> CopyText:
        """For all sequences that copy from it."""
        with self._lock:
            if (found := self._copy_texts.get(text)) is not None:
                self._copy_texts.move_to_end(text)
                return found
        found = CopyText(text, self._token_table)
        with self._lock:
            _keep(self._copy_texts, text, found, _KEPT_COPY_TEXTS, _KEPT_COPY_CHARS)
        return found

    @cached_property
    def tokenizer(self) -> "LLTokenizer":
        """One id beyond the model's stands for every end token, the next for copies."""
        return _make_tokenizer(self._vocabulary)

    @cached_property
    def ambiguous_ids(self) -> frozenset[int]:
        """Of tokens whose bytes do not say whether they may come: special ones, those without text
        and those that share theirs. Only a mask tells."""
        counts = Counter(self._vocabulary.token_bytes)
        shared = (i for i, text in enumerate(self._vocabulary.token_bytes) if counts[text] > 1)
        empty = (i for i, text in enumerate(self._vocabulary.token_bytes) if not text)
        return frozenset([*shared, *empty, *self._vocabulary.special_ids])

    def _beginning(self, grammar: str) -> Beginning:
        matcher, free_text = self.compiled(grammar)
        # JSON of a schema with free text is nothing but text.
        return matcher, self._token_texts if isinstance(free_text, FreeText) else None

    @cached_property
    def _token_texts(self) -> list[bytes]:
        tokens, ambiguous_ids = self._vocabulary.token_bytes, self.ambiguous_ids
        return [b"" if i in ambiguous_ids else text for i, text in enumerate(tokens)]

    @cached_property
    def _free_text(self) -> FreeText | None:
        vocabulary = self._vocabulary
        return free_text_of(
            vocabulary.token_bytes,
            vocabulary.encode,
            self.ambiguous_ids,
            frozenset(vocabulary.special_ids),
        )

    def _lead_text(self, marks: tuple[Mark, ...]) -> LeadText:
        if self._last_lead is None or self._last_lead[0] != marks:
            tokens = self._vocabulary.token_bytes
            self._last_lead = marks, lead_text_of(marks, tokens, self.ambiguous_ids)
        return self._last_lead[1]

    @cached_property
    def _token_table(self) -> TokenTable:
        return TokenTable(*self._vocabulary)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return self._read_vocabulary()

    def _prepare(self, grammar: str, copy_text: str | None) -> str | None:
        with self._lock:
            is_known = grammar in self._compiled
        try:
            if copy_text is not None:
                self.copy_text(copy_text)
            if is_known:
                return None
            compiled = self._compile(grammar)
        except Exception as error:  # of the library, or a tokenizer that cannot be used
            return str(error) or type(error).__name__
        if compiled.matcher.is_error():
            return compiled.matcher.get_error()
        with self._lock:
            _keep(self._compiled, grammar, compiled, _KEPT, _KEPT_CHARS)
        return None

    def _compile(self, grammar: str) -> Compiled:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(**PARSER_LIMITS)
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0, limits=limits)
        _ = self.ambiguous_ids  # here, not when the first row needs them
        if marks := marks_in(grammar):
            return Compiled(matcher, self._lead_text(marks))
        free_text = self._free_text
        return Compiled(matcher, free_text and free_text_in(grammar, free_text))


def _keep(kept: OrderedDict[str, Kept], text: str, value: Kept, most: int, most_chars: int) -> None:
    """The ones used last, at most so many and of so many characters together."""
    kept[text] = value
    while len(kept) > most or (len(kept) > 1 and sum(map(len, kept)) > most_chars):
        kept.popitem(last=False)


def _make_tokenizer(vocabulary: Vocabulary) -> "LLTokenizer":
    from llguidance import LLTokenizer

    tokens = list(vocabulary.token_bytes)
    copy_name = COPY_TOKEN.encode()

    class Wrapper:
        """What llguidance asks of a tokenizer of another library."""

        is_tokenizer_wrapper = True
        eos_token_id = len(tokens)
        bos_token_id = None

        def __init__(self) -> None:
            self.special_token_ids = [*vocabulary.special_ids, len(tokens) + 1]
            named = [b"" if token == copy_name else token for token in tokens]
            self.tokens = [*named, b"", copy_name]

        def __call__(self, text: str) -> list[int]:
            """The text's own tokens. Where they do not spell it, as when a tokenizer changes
            letters, the longest that fit."""
            return list(encode(text) if len(text) <= _SHORT_TEXT else encode.__wrapped__(text))

    @lru_cache(maxsize=_KEPT_TEXTS)
    def encode(text: str) -> Sequence[int]:
        token_ids = vocabulary.encode(text)
        spelled = b"".join(tokens[token_id] for token_id in token_ids)
        return token_ids if spelled == text.encode() else tokenizer.greedy_tokenize(text)

    tokenizer = LLTokenizer(Wrapper())  # type: ignore[arg-type]  # by its attributes
    return tokenizer
