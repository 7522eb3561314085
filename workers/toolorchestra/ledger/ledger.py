"""The ledger: tracks the live groups, chooses the groups of each step, decides on results. Pure: the caller gives time.

Invariants (ledger.md), each tested by Hypothesis in tests/unit/ledger/test_ledger_properties.py:

- Bound: groups open + complete + in training ≤ (maxStaleness + 1) × groupsPerStep until the new version is live.
- Order: a step at trainer step t leaves only groups that later steps can still use in time. That is: for every deadline
  d ≥ t at most (d - t) × groupsPerStep groups with `oldest + maxStaleness ≤ d`. Plain oldest-first order is not enough:
  a fast new group could overtake, and two stragglers could be due in a step with room for one.
- maxStaleness 0 is exactly synchronous and drops nothing.
- A result of a dead dispatch is late and changes nothing.
- An episode that does not fit under the spend cap waits for room. Nothing is excluded because of missing money.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from toolorchestra.ledger.sibling import Sibling, SiblingStatus
from toolorchestra.ledger.spend import Spend
from toolorchestra.rollout.identity import Dispatch, EpisodeId

MIN_SCORED = 2
"""Fewest scored siblings of a group: with fewer, there is no mean to compare with."""
MAX_REFILL = 3
"""Groups per step that the filters may remove, in multiples of groupsPerStep, before the training is paused."""


@dataclass(frozen=True)
class LedgerConfig:
    """The fields of `spec.algorithm` that limit the ledger (resources.md)."""

    groups_per_step: int
    group_size: int
    max_staleness: int = 0
    on_stale: Literal["Wait", "Drop"] = "Wait"
    when_short: Literal["Refill", "Shrink"] = "Refill"

    @property
    def bound(self) -> int:
        return (self.max_staleness + 1) * self.groups_per_step


class GroupState(StrEnum):
    OPEN = "open"
    COMPLETE = "complete"
    """Every sibling is accepted or excluded, and the filters kept the group. It waits for its step."""
    TRAINING = "training"


@dataclass
class Group:
    number: int
    siblings: list[Sibling]
    state: GroupState = GroupState.OPEN

    def oldest(self, step: int) -> int:
        """Return the step of the oldest token that the group has or may still get.

        `step` is the live one. A sibling that waits for money or an expert cannot get older tokens than that."""
        steps = (s.oldest for s in self.siblings if s.live is not None or s.accepted is not None)
        return min(steps, default=step)

    @property
    def done(self) -> bool:
        return all(s.status.terminal for s in self.siblings)

    @property
    def accepted(self) -> list[Dispatch]:
        """The dispatches whose results were accepted, by sample."""
        return [s.accepted for s in self.siblings if s.accepted is not None]


@dataclass(frozen=True)
class Effects:
    """What the caller must do: write it to the journal, then publish. Empty: nothing."""

    dispatches: tuple[Dispatch, ...] = ()
    excluded: tuple[tuple[EpisodeId, str], ...] = ()
    """Episodes that never got a result, each with the reason."""
    set_aside: tuple[Dispatch, ...] = ()
    """Accepted dispatches that no step will use."""
    finished: tuple[int, ...] = ()
    """Groups whose siblings are all terminal; they must now be judged."""
    dead: tuple[Dispatch, ...] = ()
    """Dispatches that died without a result; they must be removed from the bus."""


@dataclass(frozen=True)
class StepPlan:
    """The groups of the next optimizer step, oldest versions first. Empty only with `Shrink`."""

    groups: tuple[int, ...]


@dataclass(frozen=True)
class Waiting:
    """Why no step starts. `paused`: waiting will not help."""

    reason: str
    paused: bool = False
    stragglers: tuple[int, ...] = ()


@dataclass
class Ledger:
    """The live groups of one incarnation. `step` is the trainer's step and the version that is live on the engines."""

    config: LedgerConfig
    uid: str
    incarnation: int = 0
    step: int = 0
    next_group: int = 0
    steps: int | None = None
    """Number of steps of the training. Groups that no step would use are not opened."""
    groups: dict[int, Group] = field(default_factory=dict[int, Group])
    filtered: int = 0
    """Groups removed since the last step by filters or missing siblings."""
    spend: Spend = field(default_factory=Spend)
    allowance: Decimal = Decimal(0)
    """Worst case of one dispatch in dollars, reserved before it is sent; 0 if nothing in it is paid for."""

    @property
    def limit(self) -> Decimal | None:
        """What the worker of a dispatch may spend: the reserved amount if there is a cap, else None."""
        return self.allowance if self.spend.cap is not None and self.allowance > 0 else None

    # ── admission ──────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, *, now: float) -> list[Dispatch]:
        """Dispatch what waited for room under the cap, then open as many groups as bound and cap allow."""
        dispatches = self._admit_waiting(now=now)
        if self._with(SiblingStatus.WAITING):
            return dispatches
        room = self.config.bound - len(self.groups)
        if self.config.when_short == "Shrink":
            room -= self.filtered
        elif self.filtered >= MAX_REFILL * self.config.groups_per_step:
            room = 0
        if self.steps is not None:
            room = min(room, (self.steps - self.step) * self.config.groups_per_step - len(self.groups))
        for _ in range(max(0, room)):
            if self.out_of_money:
                break
            group = self._open(self.next_group)
            self.next_group += 1
            dispatches += [i for s in group.siblings if (i := self._send(s, now=now))]
        return dispatches

    def _admit_waiting(self, *, now: float) -> list[Dispatch]:
        return [i for s in self._with(SiblingStatus.WAITING) if (i := self._send(s, now=now))]

    @property
    def out_of_money(self) -> bool:
        """Whether the cap has no room for another group."""
        size = self.config.group_size
        return self.spend.room_for(dispatches=size, each=self.allowance) < size

    @property
    def broke(self) -> bool:
        """Whether nothing can be sent any more: the cap has no room, and no awaited bill could make room."""
        if self.spend.reserved or not self.out_of_money:
            return False
        return bool(self._with(SiblingStatus.WAITING)) or not self._with(SiblingStatus.DEFERRED)

    def _with(self, status: SiblingStatus) -> list[Sibling]:
        return [s for g in self.groups.values() for s in g.siblings if s.status is status]

    def _send(self, sibling: Sibling, *, now: float) -> Dispatch | None:
        """Dispatch the episode and reserve its worst case. If the cap has no room, let it wait and return None."""
        if self.spend.room_for(dispatches=1, each=self.allowance) < 1:
            sibling.wait()
            return None
        dispatch = sibling.dispatch(step=self.step, now=now)
        self.spend.reserve(str(dispatch), self.allowance)
        return dispatch

    def _open(self, number: int) -> Group:
        siblings = [Sibling(EpisodeId(self.uid, number, i), self.incarnation) for i in range(self.config.group_size)]
        self.groups[number] = Group(number, siblings)
        return self.groups[number]

    def restore(self, number: int, accepted: Iterable[tuple[Dispatch, int]], *, now: float) -> Effects:
        """Restore a group of an earlier incarnation.

        `accepted` dispatches (with their oldest step) stay accepted; the other episodes are dispatched again."""
        group = self._open(number)
        self.next_group = max(self.next_group, number + 1)
        standing = {dispatch.episode: (dispatch, oldest) for dispatch, oldest in accepted}
        for sibling in group.siblings:
            if sibling.episode in standing:
                dispatch, oldest = standing[sibling.episode]
                sibling.accept(dispatch, oldest=oldest)
        missing = [s for s in group.siblings if s.accepted is None]
        parts = [self._again(s, reason="restored", now=now) for s in missing]
        return merge([*parts, Effects(finished=self._finished(group))])

    # ── results ────────────────────────────────────────────────────────────────────────────────────────────────

    def sibling(self, dispatch: Dispatch) -> Sibling | None:
        """Return the sibling whose live dispatch this is. None: the dispatch is dead, so its result is late."""
        group = self.groups.get(dispatch.episode.group)
        if group is None or dispatch.episode.uid != self.uid or dispatch.episode.sample >= len(group.siblings):
            return None
        sibling = group.siblings[dispatch.episode.sample]
        return sibling if sibling.live == dispatch else None

    def accept(self, dispatch: Dispatch, *, oldest: int) -> Effects | None:
        """Accept a scored result whose oldest token is of step `oldest`. None: late."""
        sibling = self.sibling(dispatch)
        if sibling is None:
            return None
        sibling.accept(dispatch, oldest=oldest)
        return Effects(finished=self._finished(self.groups[dispatch.episode.group]))

    def fail(self, dispatch: Dispatch, *, reason: str, now: float) -> Effects | None:
        """Handle a failure of infrastructure: dispatch again, or exclude if all sendings are used. None: late."""
        sibling = self.sibling(dispatch)
        return None if sibling is None else self._again(sibling, reason=reason, now=now)

    def give_back(self, dispatch: Dispatch, *, now: float) -> Effects | None:
        """Dispatch again what a worker gave back unplayed (stopped, or no engine), uncounted. None: late."""
        sibling = self.sibling(dispatch)
        if sibling is None:
            return None
        sibling.charged -= 1
        return self._again(sibling, reason="untouched", now=now)

    def defer(self, dispatch: Dispatch, *, expert: str) -> Effects | None:
        """Defer an episode whose expert is unavailable, or exclude it if it was deferred too often. None: late."""
        sibling = self.sibling(dispatch)
        if sibling is None:
            return None
        sibling.defer(expert)
        return self._excluded(sibling) if sibling.status is SiblingStatus.EXCLUDED else Effects()

    def deferred_experts(self) -> set[str]:
        """Return the experts that deferred episodes wait for."""
        return {s.expert for s in self._with(SiblingStatus.DEFERRED) if s.expert}

    def retry(self, may_try: Callable[[str], bool], *, now: float) -> list[Dispatch]:
        """Dispatch deferred episodes whose expert passes `may_try`, those with the fewest deferrals first.

        `may_try` is called once per episode."""
        waiting = sorted(self._with(SiblingStatus.DEFERRED), key=lambda s: s.deferrals)
        return [i for s in waiting if s.expert and may_try(s.expert) and (i := self._send(s, now=now))]

    def overdue(self, *, now: float, timeout: float) -> list[Dispatch]:
        """Return live dispatches without a result for `timeout` seconds. They are lost, unless still queued
        (`queued`)."""
        return [s.live for g in self.groups.values() for s in g.siblings if s.live and now - s.dispatched_at > timeout]

    def queued(self, dispatches: Iterable[Dispatch], *, now: float) -> None:
        """Restart the timeout of dispatches that no worker has received yet."""
        for dispatch in dispatches:
            if (sibling := self.sibling(dispatch)) is not None:
                sibling.dispatched_at = now

    def expire(self, dispatches: Iterable[Dispatch], *, now: float) -> Effects:
        """Count these dispatches as lost, except those whose result has come in the meantime."""
        lost = [(dispatch, s) for dispatch in dispatches if (s := self.sibling(dispatch)) is not None]
        dead = Effects(dead=tuple(dispatch for dispatch, _ in lost))
        return merge([dead, *(self._again(s, reason="lost", now=now) for _, s in lost)])

    def _again(self, sibling: Sibling, *, reason: str, now: float) -> Effects:
        if not sibling.exhausted:
            dispatch = self._send(sibling, now=now)
            return Effects(dispatches=() if dispatch is None else (dispatch,))
        sibling.exclude(reason)
        return self._excluded(sibling)

    def _excluded(self, sibling: Sibling) -> Effects:
        group = self.groups[sibling.episode.group]
        return Effects(excluded=((sibling.episode, sibling.reason),), finished=self._finished(group))

    def _finished(self, group: Group) -> tuple[int, ...]:
        return (group.number,) if group.done else ()

    # ── judging and steps ──────────────────────────────────────────────────────────────────────────────────────

    def scored_enough(self, number: int) -> bool:
        return len(self.groups[number].accepted) >= MIN_SCORED

    def keep(self, number: int) -> None:
        """Keep the finished group after the filters: it waits for its step."""
        self.groups[number].state = GroupState.COMPLETE

    def drop(self, number: int) -> list[Dispatch]:
        """Remove the finished group (filters or missing siblings). Return its accepted dispatches."""
        self.filtered += 1
        return self.groups.pop(number).accepted

    def next_step(self) -> StepPlan | Waiting:
        """Return the groups of the next step, or why it must wait."""
        size = self.config.groups_per_step
        ready = sorted(self._in(GroupState.COMPLETE), key=lambda g: (g.oldest(self.step), g.number))
        if self._in(GroupState.TRAINING):
            return Waiting("a step is in training")
        if self.config.when_short == "Shrink":
            size = max(0, size - self.filtered)
        if len(ready) < size:
            spent = self.config.when_short == "Refill" and self.filtered >= MAX_REFILL * self.config.groups_per_step
            if spent and not self._in(GroupState.OPEN):
                return Waiting(f"the filters removed {self.filtered} groups since the last step", paused=True)
            return Waiting(f"{len(ready)} of {size} groups are complete")
        # A short step needs only `size` groups but takes as many as fit, so that no group misses its deadline.
        taken = ready[: self.config.groups_per_step]
        late = self._stragglers([g for g in self.groups.values() if g not in taken])
        if late:
            return Waiting("stragglers are due", stragglers=tuple(g.number for g in late))
        return StepPlan(tuple(g.number for g in taken))

    def _in(self, state: GroupState) -> list[Group]:
        return [g for g in self.groups.values() if g.state is state]

    def _stragglers(self, rest: Sequence[Group]) -> list[Group]:
        """Return the unfinished groups to wait for: the fewest, oldest first, for which the order rule holds."""
        size, lag = self.config.groups_per_step, self.config.max_staleness
        order = sorted(rest, key=lambda g: (g.oldest(self.step), g.number))
        late: list[Group] = []
        kept = 0
        for group in order:
            room = (group.oldest(self.step) + lag - self.step) * size
            if kept + 1 > room and group.state is GroupState.OPEN:
                late.append(group)
            else:
                kept += 1
        return late

    def kill(self, number: int, *, now: float) -> Effects:
        """Restart a stale group (`onStale: Drop`): its dispatches die, its accepted results are set aside as stale,
        and all its episodes are dispatched again."""
        group = self.groups[number]
        stale = Effects(set_aside=tuple(group.accepted), dead=tuple(s.live for s in group.siblings if s.live))
        again = [s for s in group.siblings if s.status is not SiblingStatus.EXCLUDED]
        effects = merge([stale, *(self._again(s, reason="stale", now=now) for s in again)])
        # The merged effects may list the group as finished before its last sibling was dispatched again.
        return replace(effects, finished=self._finished(group))

    def begin(self, plan: StepPlan) -> None:
        """Start training the step's groups. They count in the bound until `publish`."""
        for number in plan.groups:
            self.groups[number].state = GroupState.TRAINING

    def abandon(self) -> list[Dispatch]:
        """Remove the groups of a step that failed, untrained. Return their accepted dispatches."""
        return [dispatch for g in self._in(GroupState.TRAINING) for dispatch in self.groups.pop(g.number).accepted]

    def publish(self, step: int) -> list[int]:
        """Record that the version of `step` is live on the engines: its trained groups leave and make room."""
        trained = [g.number for g in self._in(GroupState.TRAINING)]
        for number in trained:
            del self.groups[number]
        self.step = step
        self.filtered = 0
        return trained


def merge(parts: Iterable[Effects]) -> Effects:
    """Return all effects, in order, as one."""
    listed = list(parts)
    return Effects(
        dispatches=tuple(i for p in listed for i in p.dispatches),
        excluded=tuple(e for p in listed for e in p.excluded),
        set_aside=tuple(i for p in listed for i in p.set_aside),
        finished=tuple(dict.fromkeys(f for p in listed for f in p.finished)),
        dead=tuple(i for p in listed for i in p.dead),
    )
