"""A plan that only takes the same rows one token further, made from the last one."""

from shoal.engine.kv_blocks import KVBlocks
from shoal.engine.sequence import Sequence
from shoal.engine.tenants import TenantShares, decode_costs
from shoal.protocol.step import StepPlan


class Continuation:
    """The last plan, while all rows decode and none joined or left since."""

    def __init__(self, blocks: KVBlocks, shares: TenantShares) -> None:
        self._blocks = blocks
        self._shares = shares
        self._last: StepPlan | None = None
        self._seqs: list[Sequence] = []
        self._costs: dict[str, float] = {}

    def __bool__(self) -> bool:
        return self._last is not None

    def start(self, plan: StepPlan, seqs: list[Sequence]) -> None:
        """The next plan may continue this one, whose rows are those of `seqs`."""
        self._last, self._seqs = plan, seqs
        self._costs = decode_costs(seqs)

    def end(self) -> None:
        """The next plan has other rows."""
        self._last, self._seqs = None, []

    def next(self) -> StepPlan | None:
        """The same rows, one more token of each. None where a row would not get its block, or has
        it already, for a draft."""
        last, block_size = self._last, self._blocks.block_size
        assert last is not None, "there is no plan to continue"
        at_block_boundary = [seq for seq in self._seqs if seq.num_computed_tokens % block_size == 0]
        if len(at_block_boundary) > self._blocks.pool.num_available or any(
            len(seq.block_ids) * block_size > seq.num_computed_tokens for seq in at_block_boundary
        ):
            return None
        for seq in at_block_boundary:
            self._blocks.grow(seq)
        self._shares.charge_continued(self._costs)
        self._last = StepPlan(
            seq_ids=last.seq_ids,
            num_computed_tokens=[count + 1 for count in last.num_computed_tokens],
            num_new_tokens=last.num_new_tokens,
            new_block_ids={seq.seq_id: seq.block_ids[-1:] for seq in at_block_boundary},
            wants_expected=last.wants_expected,
            continues=True,
        )
        return self._last
