"""Experts that are out: when to ask again whether they answer. The clock is given; the probe is the caller's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 60.0


@dataclass
class Outage:
    """`probe_at`: monotonic seconds of the next probe; the interval doubles with each that fails."""

    probe_at: float
    interval: float = FIRST_SECONDS
    since: float = 0.0


@dataclass
class Deferrals:
    """`probe(pool)` answers whether the pool takes calls again."""

    probe: Callable[[str], Awaitable[bool]]
    outages: dict[str, Outage] = field(default_factory=dict[str, Outage])
    clock: Callable[[], float] = time.monotonic

    def out(self, pool: str, *, now: float) -> None:
        """An episode was deferred because of this pool."""
        self.outages.setdefault(pool, Outage(probe_at=now + FIRST_SECONDS, since=now))

    async def back(self, waiting: set[str]) -> list[str]:
        """Pools among `waiting` that answer again; probes those whose time has come."""
        found: list[str] = []
        for pool in sorted(waiting):
            now = self.clock()
            outage = self.outages.setdefault(pool, Outage(probe_at=now, since=now))
            if now < outage.probe_at:
                continue
            if await self.probe(pool):
                del self.outages[pool]
                found.append(pool)
            else:
                outage.interval = min(2 * outage.interval, LONGEST_SECONDS)
                outage.probe_at = self.clock() + outage.interval
        return found
