"""Experts that are out: when to try them again, and when to stop trying. Pure; the clock is given.

Invariant: only a call that succeeds ends an outage. Until then one deferred episode at a time tries the expert, at
doubling intervals, and counts like any other: against the cap with what it cost, and as a deferral of its episode. A
try that came back without having asked the expert says nothing of it: the next may follow at once.
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
"""An outage that lasts this long pauses a run in which nothing else moves."""


@dataclass
class Outage:
    """Unix seconds; `try_at` is when the next episode may try. The interval doubles with each that does."""

    since: float
    try_at: float
    interval: float = FIRST_SECONDS
    said: str = ""
    """The last failure, in the worker's words."""


@dataclass
class Deferrals:
    """Fed with every trace that comes back, of training and of evaluations."""

    clock: Callable[[], float] = time.time
    outages: dict[str, Outage] = field(default_factory=dict[str, Outage])
    misconfigured: str = ""
    """What an expert said of its own configuration, once one did."""
    _standings: PoolsHealth = field(default_factory=PoolsHealth)
    _tries: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    """Dispatch → the expert that its episode had waited for, and when it was sent."""

    def saw(self, trace: Trace, *, deferred_for: str | None) -> None:
        """A result came back; `deferred_for`: the expert whose outage ended it."""
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
            what = "mend the pool (endpoint, model, key, credit, limits) and resume"
            self.misconfigured = f"expert {deferred_for or trace.expert} is misconfigured: {trace.detail}; {what}"

    def _saw_call(self, call: Call, *, trace: Trace, deferred_for: str | None) -> None:
        pool = call.name
        self._standings = self._standings.after(pool, status=call.status, reason=call.reason, task=trace.task_id)
        self.misconfigured = self.misconfigured or self._standings.blame(pool, said=call.observation) or ""
        # What was asked before the outage, or ended by it, is no word of its end. When an episode began is what a
        # worker's clock says, which may be behind ours; when a try was sent is ours.
        outage = self.outages.get(pool)
        answered = call.status == "ok" and pool != deferred_for
        tried, sent_at = self._tries.get(trace.issue, ("", 0.0))
        since = max(trace.started_at, sent_at if tried == pool else 0.0)
        if answered and outage is not None and since >= outage.since:
            del self.outages[pool]

    def may_try(self, pool: str) -> bool:
        """Whether an episode that waits for the pool may be sent. During an outage a True is for one episode."""
        outage, now = self.outages.get(pool), self.clock()
        if outage is None:
            return True
        if now < outage.try_at:
            return False
        outage.interval = min(2 * outage.interval, LONGEST_SECONDS)
        outage.try_at = now + outage.interval
        return True

    def tries(self, dispatch: str, *, pool: str) -> None:
        """This dispatch's episode had waited for the pool, and is sent because of `may_try`."""
        self._tries[dispatch] = pool, self.clock()

    def pause(self, *, moved_at: float) -> Paused | None:
        """Why to wait no longer, if so. `moved_at`: Unix time at which something was accepted last, or
        the waiting began."""
        if self.misconfigured:
            return Paused(self.misconfigured, reason=Reason.EXPERT_MISCONFIGURED)
        for pool, outage in self.outages.items():
            silent = self.clock() - max(outage.since, moved_at)
            if silent >= OUT_SECONDS:
                what = f"expert {pool} has been out for {silent / 60:.0f} minutes, and nothing else moves"
                message = f"{what}; the last failure: {outage.said or 'no more is known'}. Resume when it answers."
                return Paused(message, reason=Reason.EXPERT_OUT)
        return None
