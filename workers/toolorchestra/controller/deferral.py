"""Outages of experts: when to try an expert again, and when to pause the run. Pure; the clock is an argument.

Invariant: only a successful call ends an outage. Until then, one deferred episode at a time tries the expert, at
doubling intervals. A try counts like any other dispatch: its cost against the cap, its failure as a deferral of the
episode. A try that came back without a call of the expert tells nothing about it, so the next may follow at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from toolorchestra.api.conditions import Reason
from toolorchestra.controller.pauses import Paused
from toolorchestra.experts.pool_health import PoolsHealth
from toolorchestra.rollout.trace import Call, Ending, Trace

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 60.0
OUT_SECONDS = 1800.0
"""An outage of this many seconds, without any other progress, pauses the run."""


@dataclass
class Outage:
    """One expert's outage, in Unix seconds. `try_at`: when the next episode may try; each try doubles the interval."""

    since: float
    try_at: float
    interval: float = FIRST_SECONDS
    said: str = ""
    """The last failure, as the worker reported it."""


@dataclass
class Deferrals:
    """Tracks outages from every trace that comes back, of training and of evaluations."""

    clock: Callable[[], float] = time.time
    outages: dict[str, Outage] = field(default_factory=dict[str, Outage])
    misconfigured: str = ""
    """The first message about a misconfigured expert; "" while there is none."""
    _health: PoolsHealth = field(default_factory=PoolsHealth)
    _tries: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    """Dispatch → the expert that its episode waited for, and the Unix time of the dispatch."""

    def saw(self, trace: Trace, *, deferred_for: str | None) -> None:
        """Update the outages with a result. `deferred_for`: the expert whose outage ended the episode."""
        if deferred_for is not None:
            now = self.clock()
            outage = self.outages.setdefault(deferred_for, Outage(since=now, try_at=now + FIRST_SECONDS))
            outage.said = trace.detail
        calls = [call for turn in trace.turns for call in turn.calls]
        for call in calls:
            self._saw_call(call, trace=trace, deferred_for=deferred_for)
        tried, _ = self._tries.pop(trace.issue, ("", 0.0))
        if tried in self.outages and all(call.name != tried for call in calls):
            outage = self.outages[tried]
            outage.interval = max(outage.interval / 2, FIRST_SECONDS)
            outage.try_at = self.clock()
        if trace.ending is Ending.EXPERT_MISCONFIGURED and not self.misconfigured:
            what = "correct the pool (endpoint, model, key, credit, limits) and resume"
            self.misconfigured = f"expert {deferred_for or trace.expert} is misconfigured: {trace.detail}; {what}"

    def _saw_call(self, call: Call, *, trace: Trace, deferred_for: str | None) -> None:
        pool = call.name
        self._health = self._health.after(pool, status=call.status, reason=call.reason, task=trace.task_id)
        self.misconfigured = self.misconfigured or self._health.blame(pool, said=call.observation) or ""
        # A call from before the outage, or one that it ended, does not show that the outage is over. An episode's start
        # is in the worker's clock, which may be behind ours; the time of a try is in our clock.
        outage = self.outages.get(pool)
        answered = call.status == "ok" and pool != deferred_for
        tried, sent_at = self._tries.get(trace.issue, ("", 0.0))
        since = max(trace.started_at, sent_at if tried == pool else 0.0)
        if answered and outage is not None and since >= outage.since:
            del self.outages[pool]

    def may_try(self, pool: str) -> bool:
        """Return whether an episode that waits for the pool may be sent; in an outage, True is for one episode only."""
        outage, now = self.outages.get(pool), self.clock()
        if outage is None:
            return True
        if now < outage.try_at:
            return False
        outage.interval = min(2 * outage.interval, LONGEST_SECONDS)
        outage.try_at = now + outage.interval
        return True

    def tries(self, dispatch: str, *, pool: str) -> None:
        """Record that this dispatch tries the pool: its episode waited for it and `may_try` allowed it."""
        self._tries[dispatch] = pool, self.clock()

    def pause(self, *, moved_at: float) -> Paused | None:
        """Return the reason to pause the run, if there is one.

        `moved_at`: Unix time of the last accepted result, or of the start of the wait.
        """
        if self.misconfigured:
            return Paused(self.misconfigured, reason=Reason.EXPERT_MISCONFIGURED)
        for pool, outage in self.outages.items():
            silent = self.clock() - max(outage.since, moved_at)
            if silent >= OUT_SECONDS:
                what = f"expert {pool} has been out for {silent / 60:.0f} minutes, and nothing else makes progress"
                message = f"{what}; the last failure: {outage.said or 'unknown'}. Resume when the expert answers."
                return Paused(message, reason=Reason.EXPERT_OUT)
        return None
