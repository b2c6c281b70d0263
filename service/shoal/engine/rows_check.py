"""Does a scheduler's bookkeeping agree? For tests, and after a step that failed."""

from collections.abc import Mapping

from shoal.engine.block_pool import ensure
from shoal.engine.sequence import Sequence
from shoal.engine.waiting import WaitingQueue


def check_rows(
    running: list[Sequence],
    waiting: WaitingQueue,
    sequences: Mapping[int, Sequence],
    max_rows: int,
) -> None:
    """Raises InvariantError unless each sequence either has a row or waits."""
    ids = {seq.seq_id for seq in running}
    ensure(len(ids) == len(running), "a sequence has two rows")
    ensure(len(ids) <= max_rows, "more rows than allowed")
    for seq_id, seq in sequences.items():
        ensure((seq_id in ids) != (seq_id in waiting), "a sequence is lost")
        ensure(seq_id in ids or not seq.block_ids, "a waiting sequence holds blocks")
    ensure(len(sequences) == len(ids) + len(waiting), "a finished sequence is still there")
