"""One sibling's life on the ledger: which dispatch of it is live, how often it was sent, how it came out.

Invariants: at most one dispatch of an episode is live; at most `MAX_DISPATCHES` are made, deferrals aside, and at most
`MAX_DEFERRALS` end deferred; a terminal sibling (accepted, excluded) has no live dispatch, and an excluded one has
nothing accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from toolorchestra.rollout.identity import Dispatch, EpisodeId

MAX_DISPATCHES = 3
"""Sendings of one episode before it is excluded (ledger.md, "Who is who"); one that ended deferred does not count."""

MAX_DEFERRALS = 8
"""Deferrals of one episode before it is excluded as `expert_unavailable`: what it spends meanwhile is for nothing."""


class SiblingStatus(StrEnum):
    LIVE = "live"
    DEFERRED = "deferred"
    """Its expert is out."""
    WAITING = "waiting"
    """The spend cap has no room for it now."""
    ACCEPTED = "accepted"
    EXCLUDED = "excluded"

    @property
    def terminal(self) -> bool:
        return self in (SiblingStatus.ACCEPTED, SiblingStatus.EXCLUDED)


@dataclass
class Sibling:
    """`oldest`: step of the oldest token, exact once accepted; before that the live step at dispatch, a lower bound."""

    episode: EpisodeId
    incarnation: int
    status: SiblingStatus = SiblingStatus.EXCLUDED
    live: Dispatch | None = None
    accepted: Dispatch | None = None
    """The dispatch whose result stands."""
    oldest: int = 0
    deferrals: int = 0
    """Sendings that ended deferred."""
    charged: int = 0
    """Sendings that count against `MAX_DISPATCHES`."""
    sent: int = 0
    """All sendings of this incarnation: the next dispatch's number."""
    dispatched_at: float = 0.0
    expert: str | None = None
    """The expert whose outage deferred it."""
    reason: str = ""

    def dispatch(self, *, step: int, now: float) -> Dispatch:
        """Send it (again). The caller has checked that it may be sent."""
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
        """Wait for the expert; exclude it where it has waited often enough."""
        self.status, self.live, self.expert = SiblingStatus.DEFERRED, None, expert
        self.charged -= 1
        self.deferrals += 1
        if self.deferrals >= MAX_DEFERRALS:
            self.exclude("expert_unavailable")

    def wait(self) -> None:
        """To be sent as soon as the cap has room."""
        self.status, self.live, self.accepted = SiblingStatus.WAITING, None, None

    @property
    def exhausted(self) -> bool:
        return self.charged >= MAX_DISPATCHES
