"""How long to wait after a failure: longer with each in a row, at most `cap`, and from the start after a success."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

_SPREAD = 0.2
"""Keys that failed together come back apart: ± this share. Below a third, so that the next delay is always longer."""


@dataclass
class Backoff:
    """Delays in seconds, of each key for itself. `draw` gives numbers in [0, 1)."""

    first: float = 0.5
    cap: float = 300.0
    draw: Callable[[], float] = random.random
    _failures: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    def failures(self, key: Hashable) -> int:
        """In a row, up to now."""
        return self._failures.get(key, 0)

    def failed(self, key: Hashable, *, cap: float | None = None) -> float:
        """Count a failure; how long to wait. `cap`: a lower one, for causes that end by themselves."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        highest = self.cap if cap is None else min(cap, self.cap)
        # 2 to the 64th is beyond every cap, and below what a float can hold.
        delay = min(self.first * 2.0 ** min(count, 64), highest)
        return delay * (1.0 + _SPREAD * (2.0 * self.draw() - 1.0))

    def succeeded(self, key: Hashable) -> None:
        """Forget its failures; also for a key that is gone."""
        self._failures.pop(key, None)
