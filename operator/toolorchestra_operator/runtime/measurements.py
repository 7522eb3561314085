"""Service times of experts, as trainings measure them, for the status of pools.

Kept in memory only, for one event loop: a new operator receives them with the next step of any training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from toolorchestra.api.pool import MeasuredService
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.trainings.progress import decimal

_RATE_DIGITS = 3


@dataclass
class Measurements:
    """Measurements by pool. `at` is when the figures last changed. If two trainings measure a pool, the later wins."""

    _known: dict[Key, MeasuredService] = field(default_factory=dict[Key, MeasuredService])

    def of(self, pool: Key) -> MeasuredService | None:
        """Return the measured service times of calls to the pool; None: no training reported any."""
        return self._known.get(pool)

    def hear(self, namespace: str, progress: Mapping[str, Any]) -> None:
        """Store what a training of the namespace reported (`toolorchestra.controller.monitoring.service_times`)."""
        at = datetime.fromtimestamp(int(progress.get("updated", 0)), UTC)
        for name, told in (progress.get("experts") or {}).items():
            key = Key("ExpertPool", namespace, name)
            new, old = _measured(told, at), self._known.get(key)
            if old is None or old.model_copy(update={"at": new.at}) != new:
                self._known[key] = new


def _measured(told: Mapping[str, Any], at: datetime) -> MeasuredService:
    return MeasuredService(
        latency_milliseconds_p50=told.get("p50Milliseconds"),
        latency_milliseconds_p99=told.get("p99Milliseconds"),
        error_rate=Decimal(decimal(told.get("errorRate", 0), digits=_RATE_DIGITS)),
        at=at.isoformat().replace("+00:00", "Z"),
    )
