"""Size of a training's streams, for the operator on a cluster and the supervisor on one machine."""

from __future__ import annotations

from typing import Final

SLACK: Final = 1.2
LEAST_PENDING: Final = 16


def leases(*, workers: int, concurrency: int) -> int:
    """Return how many orders may be leased at once: one per slot of every worker, plus 20 %, and at least 16."""
    return max(LEAST_PENDING, int(workers * concurrency * SLACK))
