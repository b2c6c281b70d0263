"""Power from the machine's counters, else from the setting; money from the setting."""

from pathlib import Path

import pytest

from shoal.config import Settings
from shoal.server import energy
from shoal.server.energy import PowerMeter, Price


class Machine:
    """Two packages, one with a part of its own, and the busy time of its cores."""

    def __init__(self, folder: Path) -> None:
        self.powercap, self.proc_stat = folder / "powercap", folder / "stat"
        for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
            (self.powercap / zone).mkdir(parents=True)
            (self.powercap / zone / "max_energy_range_uj").write_text("1000000000\n")
        self.set((0, 0), 0)

    def set(self, joules: tuple[float, float], busy_s: float) -> None:
        for package, value in enumerate(joules):
            path = self.powercap / f"intel-rapl:{package}" / "energy_uj"
            path.write_text(f"{int(value * 1e6)}\n")
        (self.powercap / "intel-rapl:0:0" / "energy_uj").write_text("77\n")
        ticks = int(busy_s * energy.os.sysconf("SC_CLK_TCK"))
        self.proc_stat.write_text(f"cpu  {ticks} 0 0 9999 9999 0 0 0 0 0\ncpu0 1 2 3\n")

    def meter(self) -> PowerMeter:
        return PowerMeter(4.0, powercap=self.powercap, proc_stat=self.proc_stat)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(energy.time, "monotonic", lambda: now[0])
    return now


def test_the_power_of_a_busy_core_is_measured(machine: Machine, clock: list[float]) -> None:
    meter = machine.meter()
    assert (meter.watts_per_core(), meter.source) == (4.0, "estimate")  # no core was busy yet
    machine.set((30, 12), 6.0)
    clock[0] += 3
    assert (meter.watts_per_core(), meter.source) == (pytest.approx(7.0), "rapl")


def test_power_is_that_of_the_last_seconds(machine: Machine, clock: list[float]) -> None:
    meter = machine.meter()
    machine.set((50, 50), 10.0)
    clock[0] += 11
    assert meter.watts_per_core() == pytest.approx(10.0)
    machine.set((50, 51), 10.05)
    clock[0] += 5
    assert meter.watts_per_core() == pytest.approx(10.0)  # a new window has just begun
    machine.set((70, 60), 20.0)
    clock[0] += 6
    assert meter.watts_per_core() == pytest.approx(3.0)


def test_a_counter_that_starts_anew_loses_nothing(machine: Machine, clock: list[float]) -> None:
    machine.set((990, 0), 0)
    meter = machine.meter()
    machine.set((10, 0), 4.0)
    clock[0] += 11
    assert meter.watts_per_core() == pytest.approx(20 / 4)


@pytest.mark.parametrize("missing", ["powercap", "energy", "stat"])
def test_without_counters_the_setting_holds(machine: Machine, missing: str) -> None:
    if missing == "stat":
        machine.proc_stat.unlink()
    elif missing == "energy":
        (machine.powercap / "intel-rapl:1" / "energy_uj").unlink()
    else:
        machine.powercap = machine.powercap / "nowhere"
    meter = machine.meter()
    assert (meter.watts_per_core(), meter.source) == (4.0, "estimate")


def test_counters_that_are_gone_later_leave_the_last_value(
    machine: Machine, clock: list[float]
) -> None:
    meter = machine.meter()
    machine.set((10, 10), 4.0)
    clock[0] += 11
    assert meter.watts_per_core() == pytest.approx(5.0)
    machine.proc_stat.unlink()
    clock[0] += 11
    assert (meter.watts_per_core(), meter.source) == (pytest.approx(5.0), "rapl")


def test_money_follows_the_settings(machine: Machine) -> None:
    settings = Settings(cost_per_cpu_hour=0.036, currency="EUR", watts_per_core=4.0)
    receipt = Price(settings, machine.meter()).receipt(2.5)
    assert receipt == {
        "cpu_seconds": 2.5, "scope": "engine", "joules_est": 10.0, "energy_source": "estimate",
        "amount_est": pytest.approx(2.5e-5), "currency": "EUR",
    }  # fmt: skip
    free = Price(Settings(), machine.meter()).receipt(2.5)
    assert (free["amount_est"], free["currency"]) == (None, None)
