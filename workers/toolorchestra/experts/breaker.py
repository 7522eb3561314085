"""A circuit breaker as a pure state machine. States are frozen, transitions return the next state, the caller gives
the time.

- Closed → open: after `failures` failures in a row.
- Open → half-open: when its open time is over.
- Half-open: exactly one probe request may go out. Its success closes the breaker. Its failure opens the breaker again
  for twice as long, up to a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class Status(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class BreakerPolicy:
    """Limits of a breaker: failures in a row, and open times in seconds."""

    failures: int = 5
    open_seconds: float = 5.0
    max_open_seconds: float = 120.0


@dataclass(frozen=True)
class Breaker:
    """The breaker of one endpoint. `now` is any monotonic clock in seconds; always use the same one."""

    policy: BreakerPolicy = BreakerPolicy()
    status: Status = Status.CLOSED
    failures: int = 0
    """Failures in a row while closed."""
    open_until: float = 0.0
    open_for: float = 0.0
    """Seconds that the current open period lasts; 0 while closed."""

    def admit(self, now: float) -> tuple[Breaker, bool]:
        """Return the next state, and whether a request may go out now. One admitted while half-open is the probe."""
        if self.status is Status.CLOSED:
            return self, True
        if self.status is Status.OPEN and now >= self.open_until:
            return replace(self, status=Status.HALF_OPEN), True
        return self, False

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until a request may be worth trying; 0 while closed."""
        return 0.0 if self.status is Status.CLOSED else max(0.0, self.open_until - now)

    def succeeded(self) -> Breaker:
        """Return the state after a success: closed, with no failures."""
        return Breaker(policy=self.policy)

    def failed(self, now: float) -> Breaker:
        """Return the state after a failure. While open, failures of earlier requests do not prolong the open time."""
        if self.status is Status.OPEN:
            return self
        failures = self.failures + 1
        if self.status is Status.CLOSED and failures < self.policy.failures:
            return replace(self, failures=failures)
        longer = min(max(self.policy.open_seconds, 2 * self.open_for), self.policy.max_open_seconds)
        return replace(self, status=Status.OPEN, failures=failures, open_until=now + longer, open_for=longer)

    def abandoned(self) -> Breaker:
        """Return the state after an admitted request ended without a verdict. If it was the probe, the next one is."""
        return replace(self, status=Status.OPEN) if self.status is Status.HALF_OPEN else self
