"""Hypothesis drives the ledger through every order of events that workers, experts and the trainer can cause."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from toolorchestra.rollout.identity import Issue
from toolorchestra.train.ledger import Effects, GroupState, Ledger, LedgerConfig, StepPlan, Waiting


class LedgerMachine(RuleBasedStateMachine):
    """A model of the world around the ledger: issues in flight, dead issues that may still answer, one trainer."""

    @initialize(
        groups=st.integers(1, 3),
        size=st.integers(2, 3),
        staleness=st.integers(0, 3),
        on_stale=st.sampled_from(["Wait", "Drop"]),
        when_short=st.sampled_from(["Refill", "Shrink"]),
    )
    def start(self, groups: int, size: int, staleness: int, on_stale: str, when_short: str) -> None:
        config = LedgerConfig(groups, size, staleness, on_stale, when_short)  # type: ignore[arg-type]
        self.ledger = Ledger(config, "uid")
        self.now = 0.0
        self.flying: dict[Issue, int] = {}
        self.dead: list[Issue] = []
        self.accepted: set[Issue] = set()
        self.gone: set[Issue] = set()
        self.trained: set[Issue] = set()
        self.training: StepPlan | None = None
        self.stale_drops = 0
        self.seen: set[Issue] = set()
        self.send(self.ledger.admit(now=self.now))

    # ── helpers ────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, issues: list[Issue] | tuple[Issue, ...]) -> None:
        for issue in issues:
            assert issue not in self.seen, "an issue was made twice"
            self.seen.add(issue)
            self.flying[issue] = self.ledger.step

    def carry_out(self, effects: Effects, *, keep: bool = True) -> None:
        for issue in effects.set_aside:
            assert issue in self.accepted
            self.gone.add(issue)
        self.send(effects.issues)
        for number in effects.finished:
            if keep and self.ledger.scored_enough(number):
                self.ledger.keep(number)
            else:
                self.gone.update(self.ledger.drop(number))

    def deliver(self, issue: Issue, how: str, *, keep: bool = True, fresh: bool = False) -> None:
        version = self.ledger.step if fresh else self.flying[issue]
        del self.flying[issue]
        live = self.ledger.sibling(issue) is not None
        if how == "accept":
            effects = self.ledger.accept(issue, oldest=version)
            if effects is not None:
                self.accepted.add(issue)
        elif how == "fail":
            effects = self.ledger.fail(issue, reason="engine_lost", now=self.now)
        else:
            assert self.ledger.defer(issue, expert="gpt") is live
            return
        assert (effects is not None) is live, "late exactly where the issue is dead"
        if effects is not None:
            self.carry_out(effects, keep=keep)

    # ── rules ──────────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.flying)
    @rule(
        data=st.data(),
        how=st.sampled_from(["accept", "accept", "accept", "fail", "defer"]),
        keep=st.booleans(),
        fresh=st.booleans(),
    )
    def result(self, data: st.DataObject, how: str, keep: bool, fresh: bool) -> None:
        self.deliver(data.draw(st.sampled_from(sorted(self.flying))), how, keep=keep, fresh=fresh)

    @rule()
    def expert_back(self) -> None:
        for expert in self.ledger.deferred_experts():
            self.send(self.ledger.routable(expert, now=self.now))
        assert not self.ledger.deferred_experts()

    @rule(wait=st.floats(0, 100))
    def time_passes(self, wait: float) -> None:
        self.now += wait
        self.carry_out(self.ledger.expire(now=self.now, timeout=150.0))

    @rule()
    def admit(self) -> None:
        self.send(self.ledger.admit(now=self.now))

    @precondition(lambda self: self.training is None)
    @rule()
    def try_step(self) -> None:
        self.step_once()

    def step_once(self) -> StepPlan | Waiting:
        plan = self.ledger.next_step()
        if isinstance(plan, Waiting):
            if plan.stragglers and self.ledger.config.on_stale == "Drop":
                self.stale_drops += 1
                for number in plan.stragglers:
                    self.carry_out(self.ledger.kill(number, now=self.now))
            return plan
        for number in plan.groups:
            group = self.ledger.groups[number]
            assert group.state is GroupState.COMPLETE
            assert self.ledger.step - group.oldest <= self.ledger.config.max_staleness, "a stale group is trained"
            for issue in group.accepted:
                assert issue not in self.trained, "trained twice"
                assert issue not in self.gone, "trained after it was set aside"
                self.trained.add(issue)
        self.ledger.begin(plan)
        self.training = plan
        return plan

    @precondition(lambda self: self.training is not None)
    @rule()
    def publish(self) -> None:
        plan, self.training = self.training, None
        assert plan is not None
        assert sorted(self.ledger.publish(self.ledger.step + 1)) == sorted(plan.groups)

    @precondition(lambda self: self.training is not None)
    @rule()
    def not_finite(self) -> None:
        """The step comes to nothing: its groups leave, and room for as many is there."""
        plan, self.training = self.training, None
        assert plan is not None
        aside = self.ledger.abandon()
        assert not set(plan.groups) & set(self.ledger.groups)
        self.trained.difference_update(aside)
        self.gone.update(aside)

    @rule()
    def never_stuck(self) -> None:
        """Whatever happened: if the world answers everything, the next step starts."""
        if self.training is not None:
            self.publish()
        for _ in range(40):
            self.send(self.ledger.admit(now=self.now))
            self.expert_back()
            for issue in sorted(self.flying):
                self.deliver(issue, "accept")
            if isinstance(self.step_once(), StepPlan):
                return
        raise AssertionError(f"stuck: {self.ledger.next_step()}")

    # ── invariants ─────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def bounded(self) -> None:
        assert len(self.ledger.groups) <= self.ledger.config.bound

    @invariant()
    def synchronous_drops_nothing(self) -> None:
        if self.ledger.config.max_staleness == 0:
            assert self.stale_drops == 0

    @invariant()
    def counts_add_up(self) -> None:
        """Every accepted issue is trained, gone with a reason, or still held by a live group: each exactly once."""
        held = {i for g in self.ledger.groups.values() for i in g.accepted} - self.trained
        assert not (self.trained & self.gone)
        assert not (held & self.gone)
        assert self.accepted == self.trained | self.gone | held


LedgerMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_a_short_step_takes_what_falls_due() -> None:
    """`Shrink` once left the second of two due groups behind because a newer group had been filtered."""
    ledger = Ledger(LedgerConfig(2, 2, 1, "Wait", "Shrink"), "uid")
    first = ledger.admit(now=0)
    for issue in first:
        ledger.accept(issue, oldest=0)
    for number in range(4):
        ledger.keep(number)
    plan = ledger.next_step()
    assert isinstance(plan, StepPlan)
    ledger.begin(plan)
    ledger.publish(1)
    for issue in ledger.admit(now=0)[:2]:
        ledger.accept(issue, oldest=1)
    ledger.drop(4)
    assert ledger.next_step() == StepPlan((2, 3))
