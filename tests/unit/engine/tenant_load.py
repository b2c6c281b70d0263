"""Tenants that keep an engine busy, on a clock that passes only as steps cost.

The runner knows lengths only, so that thousands of steps take a second.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.engine.core import EngineCore
from shoal.protocol.messages import EngineConfig
from shoal.protocol.step import LoadedRunner, StepPlan, StepResult
from tests.fakes.fake_runner import loaded_model
from tests.unit.engine.building import Clock, make_submit

STEP_S, ROW_S, TOKEN_S = 0.0004, 0.0002, 0.00014
"""What a step costs, each row that decodes, each prompt token: minnow on one core."""


@dataclass
class Tenant:
    """Sends a request as soon as one of its `num_open` has its answer."""

    name: str
    num_open: int
    prompt: int = 20
    output: int = 16
    weight: float = 1.0
    pause_s: float = 0.0
    """Between an answer and the next request."""
    first_token_s: list[float] = field(default_factory=list)
    served: int = 0
    """Weighted tokens: prompt 1, output 2."""


class LengthRunner:
    """Samples the same token for whoever is due; a step moves the clock. Knows no drafts."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._num_known: dict[int, int] = {}

    def run(self, plan: StepPlan) -> StepResult:
        num_decodes = plan.num_new_tokens.count(1)
        num_prompt = plan.num_tokens - num_decodes
        self._clock.now += STEP_S + ROW_S * num_decodes + TOKEN_S * num_prompt
        for new in plan.new_rows:
            self._num_known[new.seq_id] = len(new.token_ids)
        token_ids: list[int | None] = []
        columns = zip(plan.seq_ids, plan.num_computed_tokens, plan.num_new_tokens, strict=True)
        for seq_id, start, count in columns:
            is_due = start + count == self._num_known[seq_id]
            self._num_known[seq_id] += is_due
            token_ids.append(1 if is_due else None)
        return StepResult(token_ids)


class TenantLoad:
    """An engine under the load of some tenants."""

    def __init__(
        self, tenants: Iterable[Tenant], num_blocks: int = 20_000, **config: object
    ) -> None:
        self.tenants = list(tenants)
        self.clock = Clock()
        fake = LoadedRunner(
            LengthRunner(self.clock), loaded_model(max_model_len=100_000), num_blocks
        )
        self.core = EngineCore(
            {"fake": fake},
            EngineConfig(models=(), drafts=False, **config),  # type: ignore[arg-type]
            self.clock,
        )
        self.num_computed = 0
        self._owner: dict[int, tuple[Tenant, float]] = {}
        self._to_send = [(self.clock.now, t) for t in self.tenants for _ in range(t.num_open)]
        self._num_sent = 0

    @property
    def num_yields(self) -> int:
        return self.core.stats()[0].num_yields

    def run(self, seconds: float) -> None:
        """So long, on the clock of the engine."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.step()
        self.core.check()

    def step(self) -> None:
        """Sends what is due, and steps; without work the clock goes on to the next to send."""
        self._send_due()
        outputs = self.core.step()
        if outputs is None:
            self.clock.now = min(due for due, _ in self._to_send)
            return
        self.num_computed += outputs.num_tokens
        for seq_id in outputs.started:
            tenant, sent_s = self._owner[seq_id]
            tenant.first_token_s.append(self.clock.now - sent_s)
            tenant.served += tenant.prompt
        for seq_id, token_ids in outputs.tokens():
            self._owner[seq_id][0].served += 2 * len(token_ids)
        for seq_id in outputs.finished:
            tenant, _ = self._owner.pop(seq_id)
            self._to_send.append((self.clock.now + tenant.pause_s, tenant))

    def forget(self) -> None:
        """Counts from now on."""
        for tenant in self.tenants:
            tenant.served = 0
            tenant.first_token_s.clear()
        self.num_computed = 0

    def _send_due(self) -> None:
        due = [entry for entry in self._to_send if entry[0] <= self.clock.now]
        for entry in due:
            self._to_send.remove(entry)
            self._num_sent += 1
            sent_s, tenant = entry
            self._owner[self._num_sent] = (tenant, sent_s)
            self.core.add(
                make_submit(
                    self._num_sent,
                    [self._num_sent // 60 % 60, *[self._num_sent % 60] * (tenant.prompt - 1)],
                    tenant.output,
                    tenant=tenant.name,
                    weight=tenant.weight,
                )
            )


def fairness_index(tenants: Iterable[Tenant]) -> float:
    """Jain's index of what each was served for its weight: 1 when all are equal, 1/n when one has
    everything."""
    shares = [tenant.served / tenant.weight for tenant in tenants]
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


def rows_of(load: TenantLoad) -> Counter[str]:
    """Rows of each tenant now."""
    (model,) = load.core._models.values()
    return Counter(seq.submit.tenant for seq in model.scheduler._running)
