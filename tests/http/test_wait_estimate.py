"""The wait that admission promises beside the one that the scheduler gives, on one clock: a
deadline that cannot be met is refused, and one that can is not."""

from collections import Counter

import pytest

from shoal.protocol.messages import EngineStats
from shoal.server.admission import Admission, Reservation
from tests.unit.engine.building import make_submit
from tests.unit.engine.tenant_load import Tenant, TenantLoad

BATCH = 16
OUTPUT = 40


class Served:
    """An engine under load, with the admission in front of it."""

    def __init__(self, tenants: list[Tenant]) -> None:
        self.load = TenantLoad(tenants, max_batch_size=BATCH)
        self.stats: dict[str, EngineStats] = {}
        self.admission = Admission(
            self.stats,
            max_batch_size=BATCH,
            max_queue=1000,
            max_queue_tokens=1_000_000,
            tenant_max_queue=0,
        )
        self.held: dict[int, Reservation] = {}

    def run(self, seconds: float) -> None:
        """So long; every sequence has its reservation."""
        end = self.load.clock.now + seconds
        while self.load.clock.now < end:
            self.load.step()
            self.follow()

    def follow(self) -> None:
        for seq_id, (tenant, _) in self.load._owner.items():
            if seq_id not in self.held:
                self.held[seq_id] = self.admission.reserve("fake", tenant.name, 1)
                self.held[seq_id].add_tokens(tenant.prompt)
        (model,) = self.load.core._models.values()
        scheduler = model.scheduler
        for seq_id in list(self.held):
            if seq_id not in scheduler._sequences:
                self.held.pop(seq_id).release(OUTPUT)
            elif scheduler._sequences[seq_id].num_output_tokens:
                self.held[seq_id].started()
        self.stats["fake"] = self.load.core.stats()[0]

    def wait_of(self, name: str) -> float:
        """Of one more sequence of this tenant, until it has a row."""
        (model,) = self.load.core._models.values()
        sent_s = self.load.clock.now
        extra = Tenant(name, 0, output=OUTPUT)
        self.load._owner[10**6] = (extra, sent_s)
        self.load.core.add(make_submit(10**6, [1] * 20, OUTPUT, tenant=name))
        seq = model.scheduler._sequences[10**6]
        while seq.admitted_s is None:
            self.load.step()
        return seq.admitted_s - sent_s


@pytest.mark.parametrize(
    ("tenants", "asks"),
    [
        ({"only": 80}, "only"),
        ({"only": 200}, "only"),
        ({"heavy": 150, "light": 20}, "heavy"),
        ({"a": 40, "b": 40, "c": 40}, "b"),
    ],
)
def test_the_promised_wait_is_near_the_real_one(tenants: Counter[str], asks: str) -> None:
    served = Served([Tenant(name, num, output=OUTPUT) for name, num in tenants.items()])
    served.run(2.0)
    promised = served.admission.expected_wait_s("fake", asks)
    assert 0.6 <= promised / served.wait_of(asks) <= 1.6


def test_a_light_tenant_is_promised_no_wait_beside_a_flood_and_has_none() -> None:
    served = Served([Tenant("heavy", 200, output=OUTPUT)])
    served.run(2.0)
    assert served.admission.expected_wait_s("fake", "heavy") > 0.5
    assert served.admission.expected_wait_s("fake", "light") == 0.0
    assert served.wait_of("light") < 0.05
