"""Service times and error rate of each expert's latest calls, for the status.

Invariant: bounded memory; the newest `WINDOW` calls of an expert count, however old they are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, TypedDict

from toolorchestra.rollout.trace import Trace

WINDOW: Final = 512
"""How many calls of one expert are kept: enough for a useful 99th percentile."""
_COUNTED: Final = ("ok", "refused", "unavailable")
"""Statuses of calls that reached the expert, or should have; rejected or cancelled calls tell nothing about it."""


class ServiceTime(TypedDict):
    """Summary of one expert's latest calls. The times are of answered calls; None where it answered none."""

    p50Milliseconds: int | None
    p99Milliseconds: int | None
    errorRate: float
    calls: int


class ServiceTimes:
    """Collects the experts' latest calls from traces."""

    def __init__(self) -> None:
        self._calls: dict[str, deque[float | None]] = {}

    def observe(self, trace: Trace) -> None:
        """Count a trace's calls of experts."""
        for turn in trace.turns:
            for call in turn.calls:
                if call.status in _COUNTED:
                    seconds = call.meter.service_seconds if call.status != "unavailable" else None
                    self._calls.setdefault(call.name, deque(maxlen=WINDOW)).append(seconds)

    def summary(self) -> dict[str, ServiceTime]:
        """Return the summaries by the expert's name."""
        return {name: _summary(calls) for name, calls in sorted(self._calls.items())}


def _summary(calls: Sequence[float | None]) -> ServiceTime:
    answered = sorted(seconds for seconds in calls if seconds is not None)
    return ServiceTime(
        p50Milliseconds=_milliseconds(answered, 0.5),
        p99Milliseconds=_milliseconds(answered, 0.99),
        errorRate=(len(calls) - len(answered)) / len(calls),
        calls=len(calls),
    )


def _milliseconds(ordered: Sequence[float], share: float) -> int | None:
    """Return the nearest-rank percentile in milliseconds; None for an empty list."""
    return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]) if ordered else None
