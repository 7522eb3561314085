"""A circuit breaker as a pure state machine: states are frozen, transitions return the next state, time is given.

Closed → open after `failures` failures in a row; open → half-open once its time is over; half-open lets exactly one
probe through, whose success closes and whose failure opens again for twice as long (up to a bound).
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
    """Seconds, and failures in a row."""

    failures: int = 5
    open_seconds: float = 5.0
    max_open_seconds: float = 120.0


@dataclass(frozen=True)
class Breaker:
    """One endpoint's breaker. `now` is any monotonic clock in seconds, the same one throughout."""

    policy: BreakerPolicy = BreakerPolicy()
    status: Status = Status.CLOSED
    failures: int = 0
    """In a row, while closed."""
    open_until: float = 0.0
    open_for: float = 0.0
    """How long the current opening lasts; 0 while closed."""

    def admit(self, now: float) -> tuple[Breaker, bool]:
        """Whether a request may go out now. Admitted while half-open means: it is the probe."""
        if self.status is Status.CLOSED:
            return self, True
        if self.status is Status.OPEN and now >= self.open_until:
            return replace(self, status=Status.HALF_OPEN), True
        return self, False

    def wait_seconds(self, now: float) -> float:
        """How long until a request may be worth trying; 0 while closed."""
        return 0.0 if self.status is Status.CLOSED else max(0.0, self.open_until - now)

    def succeeded(self) -> Breaker:
        """The endpoint answered: whatever came before is over."""
        return Breaker(policy=self.policy)

    def failed(self, now: float) -> Breaker:
        """The endpoint failed. Failures of requests that were sent before it opened do not prolong the opening."""
        if self.status is Status.OPEN:
            return self
        failures = self.failures + 1
        if self.status is Status.CLOSED and failures < self.policy.failures:
            return replace(self, failures=failures)
        longer = min(max(self.policy.open_seconds, 2 * self.open_for), self.policy.max_open_seconds)
        return replace(self, status=Status.OPEN, failures=failures, open_until=now + longer, open_for=longer)

    def abandoned(self) -> Breaker:
        """An admitted request was given up without a verdict: where it was the probe, the next request is."""
        return replace(self, status=Status.OPEN) if self.status is Status.HALF_OPEN else self
