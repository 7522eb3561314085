"""Kills and returns to checkpoints, at any moment: the books stay exact (ledger.md, "Accepted means durable")."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Issue
from toolorchestra.train.bookkeeper import Bookkeeper, Result
from toolorchestra.train.history import History, account, read_history
from toolorchestra.train.journal import Frame, Kind
from toolorchestra.train.ledger import Effects, LedgerConfig, StepPlan, Waiting
from toolorchestra.train.spend import Spend

ALLOWANCE = Decimal("0.10")


class MemoryJournal:
    """A journal whose disk is a list: what was not flushed is gone after a kill."""

    def __init__(self, frames: list[Frame]) -> None:
        self.durable_frames = frames
        self.pending: list[Frame] = []

    def append(self, kind: Kind, head: dict[str, Any], body: bytes = b"") -> None:
        start = len(self.durable_frames) + len(self.pending)
        self.pending.append(Frame(kind, json.loads(json.dumps(head)), body, start + 1, start))

    def durable(self, start: int) -> list[Frame]:
        return self.durable_frames[start:]

    def note(self, name: str, **fields: Any) -> None:
        self.append(Kind.NOTE, {"note": name, **fields})

    def flush(self) -> None:
        self.durable_frames += self.pending
        self.pending = []


class BooksMachine(RuleBasedStateMachine):
    """One run over many incarnations. In-flight issues of dead incarnations may still answer."""

    @initialize(staleness=st.integers(0, 2), cap=st.sampled_from([None, Decimal("2.5")]))
    def start(self, staleness: int, cap: Decimal | None) -> None:
        self.config = LedgerConfig(2, 2, staleness)
        self.cap = cap
        self.disk: list[Frame] = []
        self.checkpoints = [0]
        self.flying: dict[Issue, PolicyVersion] = {}
        self.training: StepPlan | None = None
        self.paid = Decimal(0)
        self.clock = 0.0
        self.life()

    def life(self) -> None:
        """A controller starts from the newest checkpoint."""
        journal: Any = MemoryJournal(self.disk)
        self.books, recovery = Bookkeeper.open(
            config=self.config,
            uid="u",
            journal=journal,
            history=self.read(),
            step=self.checkpoints[-1],
            cap=self.cap,
            allowance=ALLOWANCE if self.cap is not None else Decimal(0),
        )
        self.training = None
        self.carry_out(self.books.restore(recovery, now=self.clock))

    def read(self) -> History:
        """What the journal says."""
        return read_history(self.disk)

    def checkpoint(self) -> None:
        """The trainers' state of this step is saved."""
        self.checkpoints.append(self.books.ledger.step)

    def carry_out(self, effects: Effects) -> None:
        for number in effects.finished:
            if self.books.ledger.scored_enough(number):
                self.books.ledger.keep(number)
            else:
                self.books.drop(number, "too_few_scored")
        self.books.flush()
        self.publish_issues(effects.issues)

    def publish_issues(self, issues: Any) -> None:
        for issue in issues:
            assert issue not in self.flying
            self.flying[issue] = PolicyVersion(self.books.ledger.incarnation, self.books.ledger.step)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), scored=st.sampled_from([True, True, True, False]), acked=st.booleans())
    def result(self, data: st.DataObject, scored: bool, acked: bool) -> None:
        issue = data.draw(st.sampled_from(sorted(self.flying)))
        started = self.flying[issue]
        ledger = self.books.ledger
        newest = data.draw(st.sampled_from(sorted({started, PolicyVersion(ledger.incarnation, ledger.step)})))
        oldest = min(started, newest, key=lambda v: v.step)
        if acked:
            del self.flying[issue]  # else the bus delivers it once more
        usd = data.draw(st.sampled_from([Decimal("0.07"), Decimal("0.07"), None]), label="None: its worker is gone")
        entry = self.books.enter(Result(issue, scored, "x", usd, (oldest, newest)), b"", now=self.clock)
        if entry.verdict != "duplicate":
            unknown = ALLOWANCE if self.cap is not None else Decimal(0)
            self.paid += unknown if usd is None else usd
        self.carry_out(entry.effects)

    @rule()
    def admit(self) -> None:
        issues = self.books.admit(now=self.clock)
        self.books.flush()
        self.publish_issues(issues)

    @precondition(lambda self: self.training is None)
    @rule()
    def begin(self) -> None:
        plan = self.books.next_step()
        if not isinstance(plan, Waiting):
            self.books.begin(plan)
            self.training = plan

    @precondition(lambda self: self.training is not None)
    @rule(checkpoint=st.booleans())
    def publish(self, checkpoint: bool) -> None:
        self.training = None
        self.books.publish(self.books.ledger.step + 1)
        self.books.flush()
        if checkpoint:
            self.checkpoint()

    @rule(lost_tasks=st.booleans())
    def kill(self, lost_tasks: bool) -> None:
        if lost_tasks:
            self.flying.clear()
        self.life()

    @invariant()
    def exact(self) -> None:
        history = read_history(self.disk)
        count = account(history)
        assert count.exact
        for issue, step in history.trained().items():
            accepted = history.accepted[issue]
            assert history.survives(accepted.newest), "trained on weights that did not survive"
            assert 0 <= step - 1 - accepted.oldest.step <= self.config.max_staleness

    @invariant()
    def never_over_the_cap(self) -> None:
        spend = self.books.ledger.spend
        assert spend.settled == self.paid
        assert spend.held == sum(spend.reserved.values(), Decimal(0))
        if self.cap is not None:
            assert spend.settled + spend.held <= self.cap

    def teardown(self) -> None:
        """All steps are done: nothing accepted is left without a fate, and what still arrives changes nothing."""
        if not hasattr(self, "books"):
            return
        if self.training is not None:
            self.books.publish(self.books.ledger.step + 1)
        self.books.finish()
        for issue, version in self.flying.items():
            result = Result(issue, True, "x", Decimal("0.01"), (version, version))
            assert self.books.enter(result, b"", now=self.clock).verdict in ("late", "duplicate")
        self.books.flush()
        count = account(read_history(self.disk))
        assert (count.exact, count.open) == (True, 0)


BooksMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestBooks = BooksMachine.TestCase


def test_the_cap_refuses_what_does_not_fit() -> None:
    spend = Spend(Decimal("1"))
    assert spend.room_for(issues=10, each=Decimal("0.3")) == 3
    spend.reserve("a", Decimal("0.9"))
    with pytest.raises(ValueError, match="no room"):
        spend.reserve("b", Decimal("0.2"))
    spend.settle("a", Decimal("0.1"))
    spend.reserve("b", Decimal("0.9"))
    assert spend.room_for(issues=1, each=Decimal("0.01")) == 0
