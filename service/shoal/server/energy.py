"""What CPU time costs: energy from the machine's counters, else from a setting, and money.

RAPL counts the energy of a processor package; Linux shows it in /sys/class/powercap, often to root
alone. Divided by the time that cores were busy it gives the power of one of them, the idle power
of the package included.
"""

import os
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shoal.config import Settings

_WINDOW_S = 10.0
"""Power is measured over at least so much time."""
_MIN_BUSY_S = 0.1
"""Less busy time than this tells nothing."""


class _Reading(NamedTuple):
    at_s: float
    micro_joules: tuple[int, ...]
    """Counters of the packages."""
    busy_s: float
    """Core-seconds of the whole machine."""


class PowerMeter:
    """Watts of a busy core."""

    def __init__(
        self,
        estimate_w: float,
        *,
        powercap: Path = Path("/sys/class/powercap"),
        proc_stat: Path = Path("/proc/stat"),
    ) -> None:
        """`estimate_w`: where the machine does not tell."""
        self._proc_stat = proc_stat
        self._zones = [
            (zone / "energy_uj", _read_number(zone / "max_energy_range_uj"))
            for zone in sorted(powercap.glob("intel-rapl:*"))
            if zone.name.count(":") == 1  # packages: their parts have a second number
        ]
        self._last = self._read()
        self._watts = estimate_w
        self.source: Literal["rapl", "estimate"] = "estimate"

    def watts_per_core(self) -> float:
        """Over the last seconds; `source` says where it comes from."""
        last = self._last
        if last is None or self._is_fresh(last) or (now := self._read()) is None:
            return self._watts
        joules = sum(
            (after - before if after >= before else after - before + limit) / 1e6
            for before, after, (_, limit) in zip(
                last.micro_joules, now.micro_joules, self._zones, strict=True
            )
        )
        busy_s = now.busy_s - last.busy_s
        if busy_s >= _MIN_BUSY_S:
            self._watts, self.source = joules / busy_s, "rapl"
            if now.at_s - last.at_s >= _WINDOW_S:
                self._last = now
        return self._watts

    def _is_fresh(self, last: _Reading) -> bool:
        """The window has just begun and there is a value of the one before."""
        return self.source == "rapl" and time.monotonic() - last.at_s < _WINDOW_S

    def _read(self) -> _Reading | None:
        """None where a counter cannot be read."""
        try:
            counters = tuple(int(path.read_text()) for path, _ in self._zones)
            fields = self._proc_stat.read_text().split("\n", 1)[0].split()[1:]
            user, nice, system, _, _, irq, softirq = map(int, fields[:7])
        except (OSError, ValueError):
            return None
        ticks = user + nice + system + irq + softirq
        busy_s = ticks / os.sysconf("SC_CLK_TCK")
        return _Reading(time.monotonic(), counters, busy_s) if counters else None


class Price:
    """What an answer costs, by the settings."""

    def __init__(self, settings: Settings, power: PowerMeter | None = None) -> None:
        self._per_hour = settings.cost_per_cpu_hour
        self._currency = settings.currency
        self._power = power or PowerMeter(settings.watts_per_core)

    def amount(self, cpu_seconds: float) -> float | None:
        """None where no price is set."""
        return None if self._per_hour is None else cpu_seconds / 3600 * self._per_hour

    def receipt(self, cpu_seconds: float) -> dict[str, Any]:
        """The `usage_cost` of an answer that took so much CPU time of the engine."""
        amount = self.amount(cpu_seconds)
        watts = self._power.watts_per_core()
        return {
            "cpu_seconds": round(cpu_seconds, 6),
            "scope": "engine",
            "joules_est": round(cpu_seconds * watts, 6),
            "energy_source": self._power.source,
            "amount_est": None if amount is None else float(f"{amount:.6g}"),
            "currency": None if amount is None else self._currency,
        }


def _read_number(path: Path) -> int:
    """0 where it cannot be read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
