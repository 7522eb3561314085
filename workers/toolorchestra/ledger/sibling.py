"""The state of one sibling in the ledger: its live dispatch, its number of sendings, its result.

Invariants: at most one dispatch of an episode is live. An episode is dispatched at most `MAX_DISPATCHES` times, not
counting deferrals, and deferred at most `MAX_DEFERRALS` times. A terminal sibling (accepted, excluded) has no live
dispatch. An excluded sibling has nothing accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from toolorchestra.rollout.identity import Dispatch, EpisodeId

MAX_DISPATCHES = 3
"""Sendings of one episode before it is excluded (ledger.md, "Who is who"). A deferred sending does not count."""

MAX_DEFERRALS = 8
"""Deferrals of one episode before it is excluded as `expert_unavailable`: what deferred sendings spend is lost."""


class SiblingStatus(StrEnum):
    LIVE = "live"
    DEFERRED = "deferred"
    """Its expert is unavailable."""
    WAITING = "waiting"
    """The spend cap has no room for it now."""
    ACCEPTED = "accepted"
    EXCLUDED = "excluded"

    @property
    def terminal(self) -> bool:
        return self in (SiblingStatus.ACCEPTED, SiblingStatus.EXCLUDED)


@dataclass
class Sibling:
    """One sibling. `oldest` is the step of its oldest token: exact after acceptance, before that a lower bound (the
    live step at dispatch)."""

    episode: EpisodeId
    incarnation: int
    status: SiblingStatus = SiblingStatus.EXCLUDED
    live: Dispatch | None = None
    accepted: Dispatch | None = None
    """The dispatch whose result was accepted."""
    oldest: int = 0
    deferrals: int = 0
    """Sendings that ended as deferred."""
    charged: int = 0
    """Sendings that count against `MAX_DISPATCHES`."""
    sent: int = 0
    """All sendings in this incarnation; also the number of the next dispatch."""
    dispatched_at: float = 0.0
    expert: str | None = None
    """The expert whose outage caused the deferral."""
    reason: str = ""

    def dispatch(self, *, step: int, now: float) -> Dispatch:
        """Send the episode (again) and return the dispatch. The caller has checked that it may be sent."""
        dispatch = Dispatch(self.episode, self.incarnation, self.sent)
        self.status, self.live, self.accepted = SiblingStatus.LIVE, dispatch, None
        self.oldest, self.dispatched_at = step, now
        self.sent += 1
        self.charged += 1
        return dispatch

    def accept(self, dispatch: Dispatch, *, oldest: int) -> None:
        self.status, self.live, self.accepted, self.oldest = SiblingStatus.ACCEPTED, None, dispatch, oldest

    def exclude(self, reason: str) -> None:
        self.status, self.live, self.accepted, self.reason = SiblingStatus.EXCLUDED, None, None, reason

    def defer(self, expert: str) -> None:
        """Wait for the expert, or exclude the sibling if it has been deferred too often."""
        self.status, self.live, self.expert = SiblingStatus.DEFERRED, None, expert
        self.charged -= 1
        self.deferrals += 1
        if self.deferrals >= MAX_DEFERRALS:
            self.exclude("expert_unavailable")

    def wait(self) -> None:
        """Wait until the cap has room; then the episode is sent."""
        self.status, self.live, self.accepted = SiblingStatus.WAITING, None, None

    @property
    def exhausted(self) -> bool:
        return self.charged >= MAX_DISPATCHES
