"""How a training's streams are sized: by the operator on a cluster, by the supervisor on one machine."""

from __future__ import annotations

from typing import Final

SLACK: Final = 1.2
LEAST_PENDING: Final = 16


def leases(*, workers: int, concurrency: int) -> int:
    """Orders that may be leased at once: one for every slot of every worker, and a little more."""
    return max(LEAST_PENDING, int(workers * concurrency * SLACK))
