"""The journalled ledger: every decision of the ledger goes into the journal before anything acts on it.

Callers follow one rule: call a method, `flush` the journal, and only then publish the returned dispatches or
acknowledge the result. A kill between any two of these steps loses nothing, and nothing is trained on twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from toolorchestra.ledger.history import Evaluation, History, Recovery, recover
from toolorchestra.ledger.journal import Journal, Kind
from toolorchestra.ledger.ledger import Effects, Ledger, LedgerConfig, StepPlan, Waiting, merge
from toolorchestra.ledger.resume import ResumeIndex
from toolorchestra.ledger.spend import Spend
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Dispatch


@dataclass(frozen=True)
class Result:
    """The result of a dispatch, as the ledger needs it. `span`: oldest and newest version of its tokens."""

    dispatch: Dispatch
    scored: bool
    reason: str
    usd: Decimal | None
    """Actual cost in dollars; None: the worker is gone, so the cost is unknown and counts as the worst case."""
    span: tuple[PolicyVersion, PolicyVersion] | None = None
    deferred_for: str | None = None
    """The expert whose outage ended the episode."""
    untouched: bool = False
    """The episode never started: it is sent again as if it had not been sent."""


KEPT_BYTES = 1 << 16
"""How many bytes of an undecodable message the journal keeps."""

Verdict = Literal["accepted", "failed", "deferred", "late", "duplicate"]


@dataclass(frozen=True)
class Entry:
    """The ledger's verdict on a result. The caller carries out the `effects` after the flush."""

    verdict: Verdict
    effects: Effects = field(default_factory=Effects)


@dataclass
class JournalledLedger:
    """The ledger of one incarnation, with its journal."""

    ledger: Ledger
    journal: Journal
    index: ResumeIndex
    """Summary of the journal for a checkpoint, so that a resume does not have to read the whole journal."""
    history: History = field(default_factory=History)
    """What earlier incarnations left; it decides which versions survive."""
    finished: bool = False

    @classmethod
    def open(
        cls,
        *,
        config: LedgerConfig,
        uid: str,
        journal: Journal,
        history: History,
        step: int,
        cap: Decimal | None = None,
        allowance: Decimal = Decimal(0),
    ) -> tuple[JournalledLedger, Recovery]:
        """Start an incarnation at the checkpoint of `step`; a new run is incarnation 0 at step 0.

        `cap` and `allowance` (worst case of one dispatch) are in dollars. Dispatches of earlier incarnations whose cost
        is unknown keep their allowance reserved until it is settled (outbox.reckon).
        """
        recovery, index = recover(history, step=step), ResumeIndex.after(history, journal.durable)
        ledger = Ledger(config, uid, recovery.incarnation, step, recovery.next_group, allowance=allowance)
        ledger.spend = Spend(
            cap,
            settled=history.spent,
            reserved=dict(history.allowances),
            dead=dict(history.withdrawn),
            presumed=dict(history.presumed),
        )
        history.incarnations.append((recovery.incarnation, step))
        journal.note("incarnation", incarnation=recovery.incarnation, step=step)
        if recovery.set_aside:
            _note_dispatches(journal, "set_aside", recovery.set_aside, reason="weights_lost")
        return cls(ledger=ledger, journal=journal, index=index, history=history), recovery

    def restore(self, recovery: Recovery, *, now: float) -> Effects:
        """Restore the open groups; call it once, when dispatches can be published."""
        parts: list[Effects] = []
        for number, accepted in recovery.restore.items():
            standing = [(a.issue, a.oldest.step) for a in accepted]
            parts.append(self.ledger.restore(number, standing, now=now))
        effects = merge(parts)
        self._dispatched(effects.dispatches)
        return effects

    # ── dispatches ─────────────────────────────────────────────────────────────────────────────────────────────────

    def admit(self, *, now: float) -> list[Dispatch]:
        """Open the groups that the staleness bound and the cap allow, and dispatch episodes that waited for the cap."""
        first = self.ledger.next_group
        dispatches = self.ledger.admit(now=now)
        if opened := list(range(first, self.ledger.next_group)):
            self.journal.note("opened", groups=opened, step=self.ledger.step)
        self._dispatched(dispatches)
        return dispatches

    def retry(self, may_try: Callable[[str], bool], *, now: float) -> list[Dispatch]:
        """Dispatch the deferred episodes whose expert may be tried."""
        dispatches = self.ledger.retry(may_try, now=now)
        self._dispatched(dispatches)
        return dispatches

    def expire(self, dispatches: Iterable[Dispatch], *, now: float) -> Effects:
        return self._carry(self.ledger.expire(dispatches, now=now))

    # ── money of dead dispatches ───────────────────────────────────────────────────────────────────────────────────

    def unbilled(self) -> list[str]:
        """Return the dispatches that have a reservation and are not known to be dead.

        Right after `open`, these are dispatches of earlier incarnations.
        """
        return sorted(self.ledger.spend.reserved.keys() - self.ledger.spend.dead.keys())

    def release(self, dispatches: Iterable[str]) -> None:
        """Release the reservations of dead dispatches that no worker ever got: they cost nothing."""
        if gone := [text for text in dispatches if text in self.ledger.spend.reserved]:
            self.journal.note("released", issues=gone)
            for text in gone:
                self.ledger.spend.release(text)

    def await_bills(self, dispatches: Iterable[str], *, until: float) -> None:
        """Keep the reservations of dead dispatches that a worker may have run, until `until` (Unix seconds)."""
        if dead := [text for text in dispatches if text in self.ledger.spend.reserved]:
            self.journal.note("withdrawn", issues=dead, until=until)
            for text in dead:
                self.ledger.spend.await_bill(text, until=until)

    def presume(self, *, now: float) -> None:
        """Count the worst case for dead dispatches whose cost did not arrive in time."""
        if lost := self.ledger.spend.overdue(now=now):
            self.journal.note("presumed", issues=lost)
            for text in lost:
                self.ledger.spend.presume(text)

    # ── evaluations ────────────────────────────────────────────────────────────────────────────────────────────

    def evaluation(self, uid: str, evaluation: Evaluation) -> None:
        """Record the start of an evaluation whose episodes have this uid."""
        self.history.evaluations[uid] = evaluation
        self.journal.note(
            "evaluation", uid=uid, suite=evaluation.suite, system=evaluation.system, version=evaluation.version
        )

    def dispatch(self, dispatch: Dispatch) -> bool:
        """Reserve the worst case of an evaluation's dispatch. Return False if the cap has no room for it now."""
        allowance = self.ledger.allowance
        if self.ledger.spend.room_for(dispatches=1, each=allowance) < 1:
            return False
        self.ledger.spend.reserve(str(dispatch), allowance)
        self._dispatched([dispatch])
        return True

    def enter_evaluated(self, result: Result, body: bytes, *, task: str) -> bool:
        """Record a result of an evaluation, also if nothing waits for it; return False if it was recorded before."""
        text = str(result.dispatch)
        if text in self.history.recorded:
            return False
        self.history.recorded.add(text)
        usd = self.ledger.spend.bill(text, result.usd)
        head = {"issue": text, "usd": str(usd), "reason": result.reason, "task": task, "scored": result.scored}
        self.journal.append(Kind.EVALUATED, head, body)
        self.ledger.spend.settle(text, usd)
        if result.scored:
            self.history.evaluated(text, task=task)
        return True

    # ── results ────────────────────────────────────────────────────────────────────────────────────────────────

    def enter(self, result: Result, body: bytes, *, now: float) -> Entry:
        """Record a result and decide on it. `body`: the encoded trace (may be empty for a dead letter).

        A result that was recorded before (the bus delivers at least once) is a duplicate: it is not written or paid
        again.
        """
        if str(result.dispatch) in self.history.recorded:
            return Entry("duplicate")
        self.history.recorded.add(str(result.dispatch))
        entry = self._decide(result, now=now)
        kinds = {"accepted": Kind.ACCEPTED, "late": Kind.LATE}
        usd = self.ledger.spend.bill(str(result.dispatch), result.usd)
        head = {"issue": str(result.dispatch), "usd": str(usd), "reason": result.reason}
        if result.span is not None:
            head |= {"oldest": str(result.span[0]), "newest": str(result.span[1])}
        self.journal.append(kinds.get(entry.verdict, Kind.UNSCORED), head, body)
        self.ledger.spend.settle(str(result.dispatch), usd)
        self._carry(entry.effects)
        return entry

    def keep_undecodable(self, id_: str, *, why: str, raw: bytes) -> None:
        """Keep an undecodable message for people to inspect; its episode, if it has one, is entered separately."""
        head = {"id": id_, "why": why, "bytes": len(raw)}
        self.journal.append(Kind.UNDECODABLE, head, raw[:KEPT_BYTES])

    def _decide(self, result: Result, *, now: float) -> Entry:
        ledger, dispatch = self.ledger, result.dispatch
        if self.finished:
            return Entry("late")
        if result.deferred_for is not None:
            deferred = ledger.defer(dispatch, expert=result.deferred_for)
            return Entry("late") if deferred is None else Entry("deferred", deferred)
        if result.untouched:
            again = ledger.give_back(dispatch, now=now)
            return Entry("late") if again is None else Entry("deferred", again)
        span = result.span
        if result.scored and span is not None and all(self.history.survives(v) for v in span):
            effects = ledger.accept(dispatch, oldest=span[0].step)
            return Entry("late") if effects is None else Entry("accepted", effects)
        reason = "weights_lost" if result.scored else result.reason
        effects = ledger.fail(dispatch, reason=reason, now=now)
        return Entry("late") if effects is None else Entry("failed", effects)

    # ── groups and steps ───────────────────────────────────────────────────────────────────────────────────────

    def drop(self, number: int, reason: str) -> list[Dispatch]:
        """Drop a finished group, which is not trained on; return its dispatches."""
        dispatches = self.ledger.drop(number)
        self.journal.note("dropped", group=number, reason=reason, issues=[str(i) for i in dispatches])
        return dispatches

    def kill(self, stragglers: Iterable[int], *, now: float) -> Effects:
        """Drop these straggling groups (`onStale: Drop`)."""
        return self._carry(merge([self.ledger.kill(number, now=now) for number in stragglers]))

    def next_step(self) -> StepPlan | Waiting:
        return self.ledger.next_step()

    def begin(self, plan: StepPlan) -> dict[int, list[Dispatch]]:
        """Start training on the step's groups; return the accepted dispatches of each."""
        self.ledger.begin(plan)
        return {number: self.ledger.groups[number].accepted for number in plan.groups}

    def abandon(self, reason: str) -> list[Dispatch]:
        """Set aside the groups of a step that could not be applied: no incarnation trains on them again."""
        groups = [g.number for g in self.ledger.groups.values() if g.state == "training"]
        dispatches = self.ledger.abandon()
        self.journal.note("set_aside", reason=reason, issues=[str(i) for i in dispatches], groups=groups)
        return dispatches

    def publish(self, step: int) -> None:
        """Record that the version of `step` is in service: this incarnation has trained on the step's groups."""
        groups = [g for g in self.ledger.groups.values() if g.state == "training"]
        dispatches = [str(i) for g in groups for i in g.accepted]
        self.journal.note("step", step=step, groups=[g.number for g in groups], issues=dispatches)
        self.ledger.publish(step)

    def finish(self) -> None:
        """Record that all steps are done: results accepted beyond them are set aside, later results are late."""
        self.finished = True
        left = [
            dispatch
            for group in self.ledger.groups.values()
            for dispatch in group.accepted
            if group.state != "training"
        ]
        if left:
            _note_dispatches(self.journal, "set_aside", left, reason="steps_done")

    def flush(self) -> None:
        self.journal.flush()

    # ── notes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _dispatched(self, dispatches: Sequence[Dispatch]) -> None:
        if not dispatches:
            return
        allowance = str(self.ledger.allowance) if self.ledger.allowance else None
        self.journal.note("issued", issues=[str(i) for i in dispatches], allowance=allowance)

    def _carry(self, effects: Effects) -> Effects:
        self._dispatched(effects.dispatches)
        for episode, reason in effects.excluded:
            self.journal.note("lost", episode=str(episode), reason=reason)
        if effects.set_aside:
            _note_dispatches(self.journal, "set_aside", effects.set_aside, reason="stale")
        return effects


def _note_dispatches(journal: Journal, name: str, dispatches: Sequence[Dispatch], *, reason: str) -> None:
    journal.note(name, reason=reason, issues=[str(i) for i in dispatches])
