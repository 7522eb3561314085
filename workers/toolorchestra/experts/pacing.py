"""How fast an endpoint may be asked, and asked again: rate buckets, the retry budget, back-off. No I/O.

Time is given by the caller, in seconds of one monotonic clock.
"""

from __future__ import annotations

import random


class RateBucket:
    """At most `per_minute` units a minute, with bursts of one second's worth.

    A request larger than the burst waits for a full bucket and leaves a debt, so that the rate holds for any size.
    """

    def __init__(self, *, per_minute: float, now: float) -> None:
        self._rate = per_minute / 60.0
        self._burst = max(1.0, self._rate)
        self._level, self._at = self._burst, now

    def take(self, amount: float, now: float) -> float:
        """Take `amount` if it is there and return 0; else take nothing and return the seconds to wait."""
        self._fill(now)
        missing = min(amount, self._burst) - self._level
        if missing > 1e-9:
            return missing / self._rate
        self._level -= amount
        return 0.0

    def settle(self, *, taken: float, used: float) -> None:
        """Give back what was estimated too high, or owe what was too low."""
        self._level += taken - used

    def _fill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


class RetryBudget:
    """Retries are at most `ratio` of requests, plus a reserve: an outage is never multiplied by its clients."""

    def __init__(self, *, ratio: float = 0.2, reserve: float = 10.0) -> None:
        self._ratio, self._reserve = ratio, reserve
        self._tokens = reserve

    def request(self) -> None:
        """A first attempt: earns a share of a retry, up to ten times the reserve."""
        self._tokens = min(self._tokens + self._ratio, 10 * self._reserve)

    def retry(self) -> bool:
        """Spend one retry; False where the budget is empty."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def backoff_seconds(*, attempt: int, base: float, cap: float, retry_after: float | None, rng: random.Random) -> float:
    """Wait before retry number `attempt` (from 1): exponential with full jitter, never less than `Retry-After`."""
    jittered = rng.uniform(0.0, min(cap, base * 2.0 ** (attempt - 1)))
    return jittered if retry_after is None else retry_after + jittered
