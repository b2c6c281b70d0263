"""What rows want of the tokens that they get; the same as long as they step together."""

from operator import is_

from shoal.runner.rows import Row
from shoal.sampling.processors.grammar import Grammar


class Wishes:
    """Of the E rows of a step that get a token. Indices are those of rows among them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.sampled = [i for i, row in enumerate(rows) if not row.state.takes_best]
        """Those that need the sampler, for they do not take the best token."""
        self.sampled_states = [rows[i].state for i in self.sampled]
        self.is_tracked = any(state.processors for state in self.sampled_states)
        """Has any processors, to be told of its tokens?"""
        guided = [(i, row.state.grammar) for i, row in enumerate(rows) if row.state.grammar]
        self.guided: list[int] = [i for i, _ in guided]
        """Those that follow a grammar."""
        self.grammars: list[Grammar] = [grammar for _, grammar in guided]
        self.masked = [grammar for grammar in self.grammars if grammar.masks_first]
        """Grammars whose masks are wanted before their rows are sampled."""
        reporting = [i for i, row in enumerate(rows) if row.reports]
        self.reported = [i for i in reporting if rows[i].new.output.logprobs is not None]
        """Those that report log-probabilities."""
        self.reported_seq_ids = [rows[i].new.seq_id for i in self.reported]
        self.num_top_logprobs = [rows[i].new.output.logprobs or 0 for i in self.reported]
        self.traced = [i for i in reporting if rows[i].new.output.trace is not None]
        """Those that report a trace."""
        self.traced_rows = [rows[i] for i in self.traced]


def wishes_of(rows: list[Row], last: Wishes | None) -> Wishes:
    """`last`: of the step before, the same for the same rows."""
    if last is None or len(last.rows) != len(rows) or not all(map(is_, last.rows, rows)):
        return Wishes(rows)
    return last
