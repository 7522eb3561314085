"""Failures of infrastructure: how many of the last results, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from toolorchestra.controller.arrival import Arrival
from toolorchestra.rollout.trace import Ending
from toolorchestra.runs.run_dir import RunDir

WINDOW = 200
"""Results that are remembered."""
FEWEST = 100
"""Results before their share of failures means anything."""


@dataclass
class Failures:
    """Of one incarnation."""

    run: RunDir
    recent: list[bool] = field(default_factory=list[bool])
    """Whether each of the last results failed."""
    unscored: Counter[str] = field(default_factory=Counter[str])
    """By reason, since the last step."""
    _said: dict[str, str] = field(default_factory=dict[str, str])
    """By reason, what the last worker said of it."""

    def entered(self, arrival: Arrival, *, failed: bool) -> None:
        """A result that was accepted or failed."""
        # That its worker was stopped, or is gone, says nothing of the run: all of a node may go at once.
        stopped = arrival.abandoned or (arrival.trace is not None and arrival.trace.ending is Ending.CANCELLED)
        if not stopped:
            self.recent = [*self.recent[-(WINDOW - 1) :], failed]
        if failed:
            self._count(arrival)

    def _count(self, arrival: Arrival) -> None:
        """Remember why; the first of each kind is an event of the run, with the worker's own words."""
        reason = arrival.result().reason
        self.unscored[reason] += 1
        if reason not in self._said:
            said = arrival.reason or "no more is known"
            self.run.event(
                "unscored", f"an episode ended as {reason}: {said}", reason=reason, issue=str(arrival.dispatch)
            )
        self._said[reason] = arrival.reason

    def complaint(self, *, most: float) -> str | None:
        """What to say where more than this share of the last results failed."""
        if len(self.recent) < FEWEST or sum(self.recent) / len(self.recent) <= most:
            return None
        causes = ", ".join(f"{reason} ({n})" for reason, n in self.unscored.most_common(3))
        last = self._said.get(self.unscored.most_common(1)[0][0]) if self.unscored else ""
        said = f" The last one: {last}" if last else ""
        return f"{sum(self.recent)} of the last {len(self.recent)} episodes failed: {causes}.{said}"
