"""The delay after a failure: longer with each failure in a row, at most `cap`, and short again after a success."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

_SPREAD = 0.2
"""Keys that failed together are spread: ± this share. It is below a third, so that the next delay is always longer."""


@dataclass
class Backoff:
    """Delays in seconds, separately for each key. `draw` returns numbers in [0, 1)."""

    first: float = 0.5
    cap: float = 300.0
    draw: Callable[[], float] = random.random
    _failures: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    def failures(self, key: Hashable) -> int:
        """The number of failures in a row, up to now."""
        return self._failures.get(key, 0)

    def failed(self, key: Hashable, *, cap: float | None = None) -> float:
        """Count a failure; return the delay. `cap`: a lower maximum, for causes that end by themselves."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        highest = self.cap if cap is None else min(cap, self.cap)
        # 2 to the 64th is above every cap, and a float can hold it.
        delay = min(self.first * 2.0 ** min(count, 64), highest)
        return delay * (1.0 + _SPREAD * (2.0 * self.draw() - 1.0))

    def succeeded(self, key: Hashable) -> None:
        """Forget the key's failures; also called for a key that is gone."""
        self._failures.pop(key, None)
