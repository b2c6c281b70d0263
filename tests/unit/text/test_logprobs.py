"""Log-probabilities in columns read like the list of objects they replace."""

import random
import sys

from shoal.protocol.messages import TokenLogprobs
from shoal.text.delta import Delta
from shoal.text.logprobs import LogprobColumns


def entries(count: int, k: int) -> list[TokenLogprobs]:
    chance = random.Random(count)
    return [
        TokenLogprobs(
            chance.randrange(1 << 20),
            -chance.random() * 10,
            [chance.randrange(1 << 20) for _ in range(k)],
            [-chance.random() * 10 for _ in range(k)],
        )
        for _ in range(count)
    ]


def test_columns_give_back_what_was_put_in() -> None:
    own = [None, *entries(5, 3), TokenLogprobs(7, float("-inf"), [], []), None, *entries(2, 20)]
    columns = LogprobColumns(own)
    assert list(columns) == own
    assert [columns[at] for at in range(len(own))] == own
    assert columns[-1] == own[-1]
    assert columns[2:5] == own[2:5]
    assert len(columns) == len(own)
    assert not LogprobColumns()


def test_a_merged_delta_has_the_same_entries_in_a_tenth_of_the_memory() -> None:
    parts = [entries(3, 20) for _ in range(400)]
    delta = Delta(0, logprobs=list(parts[0]))
    for part in parts[1:]:
        delta.merge(Delta(0, logprobs=part))
    flat = [entry for part in parts for entry in part]
    assert list(delta.logprobs) == flat
    assert delta.num_logprobs == len(flat) * 21
    assert isinstance(delta.logprobs, LogprobColumns)
    columns = delta.logprobs
    held = sum(sys.getsizeof(column) for column in (columns._ids, columns._values, columns._ends))
    assert held < len(flat) * 21 * 16
