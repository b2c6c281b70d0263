"""What each tenant used of each model on each day, in memory since the server started."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shoal.text.generator import Usage

MAX_DAYS = 31
MAX_ROWS = 10_000


@dataclass(slots=True)
class UsageRow:
    """Totals of one tenant, model and day (UTC)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens; they cost nothing."""
    cpu_seconds: float | None = None
    """None until a request knew its share."""
    est_cost: float | None = None

    def add(self, usage: Usage, cpu_seconds: float | None, cost: float | None) -> None:
        self.requests += 1
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        if cpu_seconds is not None:
            self.cpu_seconds = (self.cpu_seconds or 0.0) + cpu_seconds
        if cost is not None:
            self.est_cost = (self.est_cost or 0.0) + cost


class UsageLedger:
    """Keeps `MAX_DAYS` days and `MAX_ROWS` rows; the oldest go first."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, str, str], UsageRow] = {}  # (day, tenant, model), oldest first
        self.since = self._day()

    def record(
        self,
        tenant: str,
        model: str,
        usage: Usage,
        *,
        cpu_seconds: float | None = None,
        cost: float | None = None,
    ) -> None:
        """One request has ended."""
        key = (self._day(), tenant, model)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = UsageRow()
            self._forget_oldest()
        row.add(usage, cpu_seconds, cost)

    def rows(self, tenant: str | None) -> list[dict[str, Any]]:
        """Those of one tenant, or all, oldest first."""
        return [
            {"day": day, "tenant": owner, "model": model, **asdict(row)}
            for (day, owner, model), row in self._rows.items()
            if tenant is None or owner == tenant
        ]

    def _forget_oldest(self) -> None:
        first_day = self._day(MAX_DAYS - 1)
        while len(self._rows) > MAX_ROWS or next(iter(self._rows))[0] < first_day:
            del self._rows[next(iter(self._rows))]

    def _day(self, days_ago: int = 0) -> str:
        now = datetime.fromtimestamp(self._clock(), UTC) - timedelta(days=days_ago)
        return now.date().isoformat()
