"""Rows of a batch that are in free text (`free_text.py`), where a plain token needs no look.

One call sees to all of them. A grammar gets its tokens when it needs them.
"""

from functools import partial

import numpy as np

from shoal.kernels.sampling import NO_LOOK, rows_to_look_at
from shoal.sampling.arrays import Int32, UInt8
from shoal.sampling.processors.grammar import Grammar

_LOOK = -1
_MOST_TOKENS = 64
"""Of each row that are kept."""


class FreeRows:
    """Of rows that sample together."""

    def __init__(self, num_rows: int, looked_at: list[int]) -> None:
        """`looked_at`: rows that need a look at each token unless they are left. Others never
        do."""
        self.num_left = 0
        self._looked_at = looked_at
        self._table_of_row = np.full(num_rows, NO_LOOK, np.int32)
        self._table_of_row[looked_at] = _LOOK
        self._chars_left = np.full(num_rows, -1, np.int32)
        self._found = np.empty(num_rows, np.int32)
        self._tables: list[bytes] = []
        self.num_chars: UInt8 = np.empty((0, 0), np.uint8)
        """[tables, num_token_ids]"""
        self._grammars: list[Grammar | None] = [None] * num_rows
        self._since = [-1] * num_rows  # below 0: the grammar needs none of them
        self._tokens: list[Int32] = []  # of some steps

    def leave(self, row: int, grammar: Grammar) -> None:
        """From the next token on. `grammar.may_be_left`."""
        chars_left = grammar.leave(partial(self._take, row))
        self._table_of_row[row] = self.table(grammar.num_chars)
        self._chars_left[row] = chars_left
        self._since[row] = len(self._tokens) if chars_left >= 0 else -1
        self._grammars[row] = grammar
        self.num_left += 1

    def table(self, num_chars: bytes) -> int:
        """Its index in `num_chars`."""
        for table, each in enumerate(self._tables):
            if each is num_chars:
                return table
        self._tables.append(num_chars)
        self.num_chars = np.stack([np.frombuffer(each, np.uint8) for each in self._tables])
        return len(self._tables) - 1

    def to_look_at(self, tokens: Int32) -> list[int]:
        """Rows that need a look at their token [R]: it is not plain, none, or the row is not
        left."""
        if not self.num_left:
            return self._looked_at
        return rows_to_look_at(
            tokens, self.num_chars, self._table_of_row, self._chars_left, self._found
        )

    def remember(self, tokens: Int32) -> None:
        """They are those of the last step [R]; rows that needed a look have been told."""
        self._tokens.append(tokens)
        if len(self._tokens) == _MOST_TOKENS:
            left = [(row, g) for row, g in enumerate(self._grammars) if g is not None]
            self.release()
            self._tokens.clear()
            for row, grammar in left:
                if grammar.may_be_left:
                    self.leave(row, grammar)

    def release(self) -> None:
        """No row is left."""
        for grammar in self._grammars:
            if grammar is not None:
                grammar.catch_up()

    def _take(self, row: int) -> list[int]:
        """A row is left no longer: its tokens since, as far as its grammar needs them."""
        self._table_of_row[row] = _LOOK
        self._grammars[row] = None
        self.num_left -= 1
        since = self._since[row]
        return [tokens.item(row) for tokens in self._tokens[since:]] if since >= 0 else []
