"""What calls of each expert lately took, and how many failed: for the live status, and from there for whoever watches.

Invariant: bounded memory; the newest `WINDOW` calls of an expert count, however old its oldest one is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Final, TypedDict

from toolorchestra.rollout.trace import Trace

WINDOW: Final = 512
"""Calls of one expert that are remembered: enough for a 99th percentile to mean something."""
_COUNTED: Final = ("ok", "refused", "unavailable")
"""Calls that reached the expert, or should have; what we rejected or cancelled says nothing about it."""


class ServiceTime(TypedDict):
    """Of one expert's latest calls. Times of calls that it answered; `None`: it answered none."""

    p50Milliseconds: int | None
    p99Milliseconds: int | None
    errorRate: float
    calls: int


class ServiceTimes:
    """Fed with accepted traces."""

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
        """By the expert's name."""
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
    """The nearest-rank percentile."""
    return round(1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]) if ordered else None
