"""Pacing of requests and retries: rate buckets, the retry budget, back-off. No I/O.

The caller gives the time, in seconds of one monotonic clock.
"""

from __future__ import annotations

import random


class RateBucket:
    """A rate limit: at most `per_minute` units per minute, with bursts of one second's amount.

    A larger request waits for a full bucket and leaves a negative level, so the rate holds for requests of any size.
    """

    def __init__(self, *, per_minute: float, now: float) -> None:
        self._rate = per_minute / 60.0
        self._burst = max(1.0, self._rate)
        self._level, self._at = self._burst, now

    def take(self, amount: float, now: float) -> float:
        """Take `amount` if it is available and return 0; otherwise take nothing and return the seconds to wait."""
        self._fill(now)
        missing = min(amount, self._burst) - self._level
        if missing > 1e-9:
            return missing / self._rate
        self._level -= amount
        return 0.0

    def settle(self, *, taken: float, used: float) -> None:
        """Correct the level when an estimate (`taken`) differs from the real number (`used`)."""
        self._level += taken - used

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


class RetryBudget:
    """A limit on retries: `ratio` of the requests plus a reserve. So clients do not multiply the load of an outage."""

    def __init__(self, *, ratio: float = 0.2, reserve: float = 10.0) -> None:
        self._ratio, self._reserve = ratio, reserve
        self._tokens = reserve

    def request(self) -> None:
        """Count a first attempt: it earns `ratio` of a retry, up to ten times the reserve."""
        self._tokens = min(self._tokens + self._ratio, 10 * self._reserve)

    def retry(self) -> bool:
        """Spend one retry. Return False if the budget is empty."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def backoff_seconds(*, attempt: int, base: float, cap: float, retry_after: float | None, rng: random.Random) -> float:
    """Return the wait before retry `attempt` (from 1): exponential, with full jitter, at least `Retry-After`."""
    jittered = rng.uniform(0.0, min(cap, base * 2.0 ** (attempt - 1)))
    return jittered if retry_after is None else retry_after + jittered
