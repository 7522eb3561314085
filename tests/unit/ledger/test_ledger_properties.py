"""Hypothesis drives the ledger through every order of events that workers, experts and the trainer can cause."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from toolorchestra.ledger.ledger import Effects, GroupState, Ledger, LedgerConfig, StepPlan, Waiting
from toolorchestra.ledger.sibling import MAX_DEFERRALS, MAX_DISPATCHES, SiblingStatus
from toolorchestra.ledger.spend import Spend
from toolorchestra.rollout.identity import Dispatch, EpisodeId


class LedgerMachine(RuleBasedStateMachine):
    """A model of the world around the ledger: dispatches in flight, dead dispatches that may still answer, one trainer.

    It does what the controller does with every effect, and no more: what it did not carry out would be stuck there too.
    """

    @initialize(
        groups=st.integers(1, 3),
        size=st.integers(2, 3),
        staleness=st.integers(0, 3),
        on_stale=st.sampled_from(["Wait", "Drop"]),
        when_short=st.sampled_from(["Refill", "Shrink"]),
        cap=st.sampled_from([None, None, 3, 8, 30]),
        paid=st.booleans(),
    )
    def start(
        self, groups: int, size: int, staleness: int, on_stale: str, when_short: str, cap: int | None, paid: bool = True
    ) -> None:
        config = LedgerConfig(groups, size, staleness, on_stale, when_short)  # type: ignore[arg-type]
        self.ledger = Ledger(config, "uid", allowance=Decimal(1 if paid or cap is not None else 0))
        self.ledger.spend = Spend(None if cap is None else Decimal(cap))
        self.now = 0.0
        self.flying: dict[Dispatch, int] = {}
        self.accepted: set[Dispatch] = set()
        self.gone: set[Dispatch] = set()
        self.trained: set[Dispatch] = set()
        self.training: StepPlan | None = None
        self.stale_drops = 0
        self.seen: set[Dispatch] = set()
        self.given_back: Counter[EpisodeId] = Counter()
        self.send(self.ledger.admit(now=self.now))

    # ── helpers ────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, dispatches: list[Dispatch] | tuple[Dispatch, ...]) -> None:
        for dispatch in dispatches:
            assert dispatch not in self.seen, "an issue was made twice"
            self.seen.add(dispatch)
            self.flying[dispatch] = self.ledger.step

    def carry_out(self, effects: Effects, *, keep: bool = True) -> None:
        for dispatch in effects.set_aside:
            assert dispatch in self.accepted
            self.gone.add(dispatch)
        for dispatch in effects.dead:
            assert dispatch in self.flying, "what is answered is not to be taken back"
            assert self.ledger.sibling(dispatch) is None
        self.send(effects.dispatches)
        for number in effects.finished:
            assert self.ledger.groups[number].done
            assert not self.gone & set(self.ledger.groups[number].accepted), "set aside, and yet accepted"
            if keep and self.ledger.scored_enough(number):
                self.ledger.keep(number)
            else:
                self.gone.update(self.ledger.drop(number))

    def deliver(self, dispatch: Dispatch, how: str, *, keep: bool = True, fresh: bool = False) -> None:
        version = self.ledger.step if fresh else self.flying[dispatch]
        del self.flying[dispatch]
        self.ledger.spend.settle(str(dispatch), self.ledger.allowance / 2)
        live = self.ledger.sibling(dispatch) is not None
        if how == "accept":
            effects = self.ledger.accept(dispatch, oldest=version)
            if effects is not None:
                self.accepted.add(dispatch)
        elif how == "fail":
            effects = self.ledger.fail(dispatch, reason="engine_lost", now=self.now)
        else:
            effects = self.ledger.defer(dispatch, expert="gpt")
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

    @rule(number=st.integers(0, 5), accept=st.booleans())
    def wear_out(self, number: int, accept: bool) -> None:
        """Infrastructure fails a group up to the last sending of each of its episodes."""
        open_ = [g for g in self.ledger.groups.values() if g.state is GroupState.OPEN]
        for sibling in open_[number].siblings if number < len(open_) else ():
            while sibling.live and sibling.charged < MAX_DISPATCHES:
                self.deliver(sibling.live, "fail")
            if sibling.live and accept:
                self.deliver(sibling.live, "accept")

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), times=st.integers(1, MAX_DISPATCHES + 1))
    def given_back_untouched(self, data: st.DataObject, times: int) -> None:
        """Workers give it back before they play it, told to stop or without an engine: that uses nothing up, however
        often."""
        dispatch = data.draw(st.sampled_from(sorted(self.flying)))
        for _ in range(times):
            del self.flying[dispatch]
            self.ledger.spend.release(str(dispatch))
            sibling = self.ledger.sibling(dispatch)
            effects = self.ledger.give_back(dispatch, now=self.now)
            assert (effects is None) is (sibling is None), "late exactly where the issue is dead"
            if effects is None or sibling is None:
                return
            self.given_back[dispatch.episode] += 1
            assert effects == Effects(dispatches=effects.dispatches), "nobody is excluded for what no worker played"
            self.carry_out(effects)
            if sibling.live is None:
                assert sibling.status is SiblingStatus.WAITING, "only money keeps it"
                assert self.ledger.spend.cap is not None
                return
            dispatch = sibling.live

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def taken_back(self, data: st.DataObject) -> None:
        """A dead dispatch that no worker had got: it will never answer, and costs nothing."""
        dead = [dispatch for dispatch in sorted(self.flying) if self.ledger.sibling(dispatch) is None]
        if dead:
            dispatch = data.draw(st.sampled_from(dead))
            del self.flying[dispatch]
            self.ledger.spend.release(str(dispatch))

    @rule()
    def expert_back(self) -> None:
        self.send(self.ledger.retry(lambda expert: True, now=self.now))
        assert not self.ledger.deferred_experts()

    @rule(one=st.booleans())
    def expert_is_tried(self, one: bool) -> None:
        turns = iter([one])
        assert len(self.ledger.retry(lambda expert: False, now=self.now)) == 0
        self.send(self.ledger.retry(lambda expert: next(turns, False), now=self.now))

    @rule(wait=st.floats(0, 100), data=st.data())
    def time_passes(self, wait: float, data: st.DataObject) -> None:
        self.now += wait
        overdue = self.ledger.overdue(now=self.now, timeout=150.0)
        queued = {dispatch for dispatch in overdue if data.draw(st.booleans(), label="no worker has it yet")}
        self.ledger.queued(queued, now=self.now)
        self.carry_out(self.ledger.expire([i for i in overdue if i not in queued], now=self.now))
        assert self.ledger.overdue(now=self.now, timeout=150.0) == []

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
            assert self.ledger.step - group.oldest(self.ledger.step) <= self.ledger.config.max_staleness, (
                "a stale group is trained"
            )
            for dispatch in group.accepted:
                assert dispatch not in self.trained, "trained twice"
                assert dispatch not in self.gone, "trained after it was set aside"
                self.trained.add(dispatch)
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
        """Whatever happened: if the world answers everything, the next step starts, or there is no money for it."""
        if self.training is not None:
            self.publish()
        for _ in range(40):
            self.send(self.ledger.admit(now=self.now))
            self.expert_back()
            for dispatch in sorted(self.flying):
                self.deliver(dispatch, "accept")
            if isinstance(self.step_once(), StepPlan) or self.ledger.broke:
                return
        raise AssertionError(f"stuck: {self.ledger.next_step()}")

    # ── invariants ─────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def bounded(self) -> None:
        assert len(self.ledger.groups) <= self.ledger.config.bound

    @invariant()
    def sendings_are_bounded(self) -> None:
        for sibling in (s for g in self.ledger.groups.values() for s in g.siblings):
            assert sibling.charged <= MAX_DISPATCHES
            assert sibling.deferrals <= MAX_DEFERRALS
            assert sibling.charged >= 0, "an untouched sending was charged before"
            assert sibling.sent <= MAX_DISPATCHES + MAX_DEFERRALS + self.given_back[sibling.episode]
            assert (sibling.live is not None) == (sibling.status is SiblingStatus.LIVE)

    @invariant()
    def money_stays_under_the_cap(self) -> None:
        spend = self.ledger.spend
        assert spend.cap is None or spend.settled + spend.held <= spend.cap

    @invariant()
    def synchronous_drops_nothing(self) -> None:
        if self.ledger.config.max_staleness == 0:
            assert self.stale_drops == 0

    @invariant()
    def counts_add_up(self) -> None:
        """Every accepted dispatch is trained, gone with a reason, or still held by a live group: each exactly once."""
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
    for dispatch in first:
        ledger.accept(dispatch, oldest=0)
    for number in range(4):
        ledger.keep(number)
    plan = ledger.next_step()
    assert isinstance(plan, StepPlan)
    ledger.begin(plan)
    ledger.publish(1)
    for dispatch in ledger.admit(now=0)[:2]:
        ledger.accept(dispatch, oldest=1)
    ledger.drop(4)
    assert ledger.next_step() == StepPlan((2, 3))


def finish(ledger: Ledger, group: int) -> None:
    """Its siblings are accepted with tokens of now, and the filters keep it."""
    for sibling in ledger.groups[group].siblings:
        assert sibling.live is not None
        ledger.accept(sibling.live, oldest=ledger.step)
    ledger.keep(group)


def step_of(ledger: Ledger, group: int) -> None:
    """A step of this group alone, that waits for nobody; then the next groups are sent."""
    assert ledger.next_step() == StepPlan((group,))
    ledger.begin(StepPlan((group,)))
    ledger.publish(ledger.step + 1)
    ledger.admit(now=0)


def test_a_straggler_is_waited_for_when_it_is_due_and_no_step_before() -> None:
    ledger = Ledger(LedgerConfig(1, 2, 1), "uid")
    ledger.admit(now=0)
    finish(ledger, 1)
    step_of(ledger, 1)
    finish(ledger, 2)
    assert ledger.next_step() == Waiting("stragglers are due", stragglers=(0,))
    finish(ledger, 0)
    step_of(ledger, 0)


def test_two_stragglers_are_not_left_to_a_step_that_has_room_for_one() -> None:
    """Both fall due at step 2, so one is waited for at step 1; at step 0 there is room for both later on."""
    ledger = Ledger(LedgerConfig(1, 2, 2), "uid")
    ledger.admit(now=0)
    finish(ledger, 2)
    step_of(ledger, 2)
    finish(ledger, 3)
    assert ledger.next_step() == Waiting("stragglers are due", stragglers=(1,))


def test_a_deferral_uses_no_sending_up() -> None:
    ledger = Ledger(LedgerConfig(1, 2, 1), "uid")
    first, _ = ledger.admit(now=0)[:2]
    for _ in range(MAX_DISPATCHES):
        assert ledger.defer(first, expert="gpt") == Effects()
        (first,) = ledger.retry(lambda expert: True, now=0)
    effects = ledger.fail(first, reason="engine_lost", now=0)
    assert effects is not None
    assert (len(effects.dispatches), effects.excluded) == (1, ())


def worn_out(ledger: Ledger, group: int, *samples: int) -> None:
    """Accepted at the last of their sendings."""
    for sibling in (ledger.groups[group].siblings[sample] for sample in samples):
        for _ in range(MAX_DISPATCHES - 1):
            assert sibling.live is not None
            ledger.fail(sibling.live, reason="engine_lost", now=0)
        assert sibling.live is not None
        ledger.accept(sibling.live, oldest=0)


def test_what_a_kill_sets_aside_does_not_count_as_accepted() -> None:
    """It once stayed accepted where its sendings were used up: its trace was gone, and the controller with it."""
    ledger = Ledger(LedgerConfig(1, 2, 1, "Drop"), "uid")
    ledger.admit(now=0)
    worn_out(ledger, 0, 0)
    effects = ledger.kill(0, now=0)
    assert [(i.episode.sample, i.n) for i in effects.set_aside] == [(0, 2)]
    assert [(i.episode.sample, i.n) for i in effects.dispatches] == [(1, 1)]
    assert [(i.episode.sample, i.n) for i in effects.dead] == [(1, 0)]
    assert effects.finished == (), "its sibling is still to come"
    assert ledger.groups[0].accepted == []


def test_a_kill_that_uses_a_group_up_finishes_it() -> None:
    ledger = Ledger(LedgerConfig(1, 2, 1, "Drop"), "uid")
    ledger.admit(now=0)
    worn_out(ledger, 0, 0, 1)
    effects = ledger.kill(0, now=0)
    assert (effects.finished, effects.dispatches, len(effects.set_aside)) == ((0,), (), 2)
    assert ledger.groups[0].accepted == []


def test_a_kill_does_not_finish_a_group_whose_accepted_episodes_it_makes_again() -> None:
    ledger = Ledger(LedgerConfig(1, 2, 1, "Drop"), "uid")
    first, second = ledger.admit(now=0)[:2]
    ledger.accept(second, oldest=0)
    for _ in range(MAX_DISPATCHES - 1):
        (first,) = (ledger.fail(first, reason="engine_lost", now=0) or Effects()).dispatches
    effects = ledger.kill(0, now=0)
    assert (effects.set_aside, effects.dead, effects.finished) == ((second,), (first,), ())
    assert [dispatch.episode for dispatch in effects.dispatches] == [second.episode]


@pytest.mark.parametrize("on_stale", ["Wait", "Drop"])
def test_who_waits_for_money_or_an_expert_holds_no_old_tokens(on_stale: str) -> None:
    """After a resume under a tight cap a sibling waits that this life never sent: its tokens will be new ones."""
    ledger = Ledger(LedgerConfig(1, 2, 1, on_stale), "uid", incarnation=1, step=10)  # type: ignore[arg-type]
    ledger.spend, ledger.allowance = Spend(Decimal(1), settled=Decimal("0.8")), Decimal("0.5")
    old = [Dispatch(EpisodeId("uid", group, sample), 0, 0) for group, sample in ((4, 0), (4, 1), (5, 0))]
    ledger.restore(5, [(old[2], 10)], now=0.0)
    ledger.restore(4, [(old[0], 10), (old[1], 10)], now=0.0)
    ledger.keep(4)
    assert ledger.groups[5].siblings[1].status is SiblingStatus.WAITING
    assert ledger.next_step() == StepPlan((4,)), "what has come is trained, and nothing fresh is thrown away"
    ledger.groups[5].siblings[1].defer("dear")
    assert ledger.groups[5].oldest(ledger.step) == 10
    ledger.groups[5].siblings[0].exclude("lost")
    assert ledger.groups[5].oldest(17) == 17
