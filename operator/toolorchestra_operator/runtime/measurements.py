"""What trainings tell of their experts' service, kept for the pools' status.

Held in memory only, for one event loop: an operator that starts anew hears it again at the next step of any training.
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
    """`at` is when the figures became what they are: equal ones are no news. Of two trainings the later wins."""

    _known: dict[Key, MeasuredService] = field(default_factory=dict[Key, MeasuredService])

    def of(self, pool: Key) -> MeasuredService | None:
        """What calls to the pool were measured to take; None: nobody told."""
        return self._known.get(pool)

    def hear(self, namespace: str, progress: Mapping[str, Any]) -> None:
        """Take over what a training of the namespace told (`toolorchestra.controller.monitoring.service_times`)."""
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
