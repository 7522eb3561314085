"""Counts infrastructure failures among the last results, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from toolorchestra.controller.arrival import Arrival
from toolorchestra.rollout.trace import Ending
from toolorchestra.runs.run_dir import RunDir

WINDOW = 200
"""How many of the last results are kept."""
FEWEST = 100
"""The share of failures is judged only with at least this many results."""


@dataclass
class Failures:
    """The infrastructure failures of one incarnation."""

    run: RunDir
    recent: list[bool] = field(default_factory=list[bool])
    """Whether each of the last results failed."""
    unscored: Counter[str] = field(default_factory=Counter[str])
    """Number of failures since the last step, by reason."""
    _said: dict[str, str] = field(default_factory=dict[str, str])
    """The last worker's message, by reason."""

    def entered(self, arrival: Arrival, *, failed: bool) -> None:
        """Count a result that was accepted or failed."""
        # A worker that was stopped or lost says nothing about the run: a whole node may disappear at once.
        stopped = arrival.abandoned or (arrival.trace is not None and arrival.trace.ending is Ending.CANCELLED)
        if not stopped:
            self.recent = [*self.recent[-(WINDOW - 1) :], failed]
        if failed:
            self._count(arrival)

    def _count(self, arrival: Arrival) -> None:
        """Count the failure's reason; the first of each reason becomes an event, with the worker's message."""
        reason = arrival.result().reason
        self.unscored[reason] += 1
        if reason not in self._said:
            said = arrival.reason or "no details"
            self.run.event(
                "unscored", f"an episode ended as {reason}: {said}", reason=reason, issue=str(arrival.dispatch)
            )
        self._said[reason] = arrival.reason

    def complaint(self, *, most: float) -> str | None:
        """Return a message where more than this share of the last results failed, else None."""
        if len(self.recent) < FEWEST or sum(self.recent) / len(self.recent) <= most:
            return None
        causes = ", ".join(f"{reason} ({n})" for reason, n in self.unscored.most_common(3))
        last = self._said.get(self.unscored.most_common(1)[0][0]) if self.unscored else ""
        said = f" The last one: {last}" if last else ""
        return f"{sum(self.recent)} of the last {len(self.recent)} episodes failed: {causes}.{said}"
