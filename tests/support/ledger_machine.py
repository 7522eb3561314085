"""The ledger under every order of events, kills included: a state machine for Hypothesis."""

from __future__ import annotations

import asyncio
import json
import time
from decimal import Decimal
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from toolorchestra.bus.protocol import Withdrawn
from toolorchestra.controller.outbox import reckon
from toolorchestra.ledger.history import Evaluation, History, account, read_history
from toolorchestra.ledger.journal import Frame, Kind
from toolorchestra.ledger.journalled import JournalledLedger, Result
from toolorchestra.ledger.ledger import Effects, GroupState, LedgerConfig, StepPlan, Waiting
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Dispatch, EpisodeId

ALLOWANCE = Decimal("0.10")
PATIENCE = 100.0
"""Seconds for which the bill of a dead dispatch is waited for."""


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


class World:
    """What a kill does not touch: the bus with its orders, the workers, and what they have really spent."""

    def __init__(self) -> None:
        self.queued: dict[Dispatch, PolicyVersion] = {}
        self.leased: dict[Dispatch, PolicyVersion] = {}
        """Being played, or answered and not acknowledged. The version is the one at its sending."""
        self.vanished: set[Dispatch] = set()
        """Tasks whose worker is gone."""
        self.cost: dict[Dispatch, Decimal] = {}
        """Of everything that was ever played, whether or not its bill ever comes."""
        self.values: dict[str, bytes] = {}

    def play(self, dispatch: Dispatch, cost: Decimal) -> None:
        self.leased[dispatch] = self.queued.pop(dispatch)
        self.cost[dispatch] = cost

    # ── as far as outbox.reckon and outbox.empty need a bus ────────────────────────────────────────────────────

    async def drain(self) -> Withdrawn:
        unseen = frozenset(map(str, self.queued))
        seen = frozenset(map(str, self.leased.keys() | self.vanished))
        self.queued.clear()
        self.vanished.clear()
        return Withdrawn(unseen=unseen, seen=seen)

    async def answered(self) -> frozenset[str]:
        return frozenset()

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.values[key] = value


class BooksMachine(RuleBasedStateMachine):
    """One run over many incarnations. What dead incarnations had played may still be answered."""

    @initialize(
        staleness=st.integers(0, 2),
        cap=st.sampled_from([None, Decimal("0.75"), Decimal("2.5")]),
        on_stale=st.sampled_from(["Wait", "Drop"]),
    )
    def start(self, staleness: int, cap: Decimal | None, on_stale: Any) -> None:
        self.config = LedgerConfig(2, 2, staleness, on_stale)
        self.cap = cap
        self.disk: list[Frame] = []
        self.checkpoints = [0]
        self.world = World()
        self.unknown: set[str] = set()
        self.training: StepPlan | None = None
        self.bills: dict[Dispatch, Decimal] = {}
        self.clock = 0.0
        self.life()

    def life(self) -> None:
        """A controller starts from the newest checkpoint that there is."""
        journal: Any = MemoryJournal(self.disk)
        self.journalled, recovery = JournalledLedger.open(
            config=self.config,
            uid="u",
            journal=journal,
            history=self.read(),
            step=self.checkpoints[-1],
            cap=self.cap,
            allowance=ALLOWANCE,
        )
        self.training = None
        self.evaluated = 0
        asyncio.run(reckon(self.world, self.journalled, patience=PATIENCE))  # type: ignore[arg-type]
        played = set(map(str, self.world.cost))
        assert self.journalled.ledger.spend.reserved.keys() <= played | self.unknown, "held, and never played"
        self.carry_out(self.journalled.restore(recovery, now=self.clock))

    def read(self) -> History:
        """What the journal says."""
        return read_history(self.disk)

    def checkpoint(self) -> None:
        """The trainers' state of this step is saved."""
        self.checkpoints.append(self.journalled.ledger.step)

    def carry_out(self, effects: Effects) -> None:
        for number in effects.finished:
            assert self.journalled.ledger.groups[number].done
            if self.journalled.ledger.scored_enough(number):
                self.journalled.ledger.keep(number)
            else:
                self.journalled.drop(number, "too_few_scored")
        self.journalled.flush()
        self.publish_dispatches(effects.dispatches)
        for dispatch in effects.dead:
            self.journalled.await_bills([str(dispatch)], until=time.time() + PATIENCE)
            if self.world.queued.pop(dispatch, None) is not None:
                self.journalled.release([str(dispatch)])
        self.journalled.flush()

    def publish_dispatches(self, dispatches: Any) -> None:
        for dispatch in dispatches:
            assert dispatch not in self.world.queued
            assert dispatch not in self.world.cost
            self.world.queued[dispatch] = PolicyVersion(self.journalled.ledger.incarnation, self.journalled.ledger.step)

    # ── the world ──────────────────────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.world.queued)
    @rule(data=st.data(), cost=st.sampled_from([Decimal(0), Decimal("0.07"), ALLOWANCE]))
    def lease(self, data: st.DataObject, cost: Decimal) -> None:
        dispatch = data.draw(st.sampled_from(sorted(self.world.queued)))
        self.world.play(dispatch, cost)

    @precondition(lambda self: self.world.leased)
    @rule(
        data=st.data(),
        how=st.sampled_from(["scored", "scored", "scored", "failed", "deferred", "no worker", "untouched"]),
        acked=st.booleans(),
    )
    def result(self, data: st.DataObject, how: str, acked: bool) -> None:
        self.answer(data.draw(st.sampled_from(sorted(self.world.leased))), how, data=data, acked=acked)

    def answer(self, dispatch: Dispatch, how: str, *, data: st.DataObject | None = None, acked: bool = True) -> None:
        ledger, started = self.journalled.ledger, self.world.leased[dispatch]
        newest = PolicyVersion(ledger.incarnation, ledger.step)
        if data is not None:
            newest = data.draw(st.sampled_from(sorted({started, newest})))
        oldest = min(started, newest, key=lambda v: v.step)
        if acked:
            del self.world.leased[dispatch]  # else the bus delivers it once more
        if how == "untouched" and dispatch not in self.bills:  # nothing was spent on what no worker began
            self.world.cost[dispatch] = Decimal(0)
        usd = None if how == "no worker" else self.world.cost[dispatch]
        deferred_for = "gpt" if how == "deferred" else None
        result = Result(dispatch, how == "scored", "x", usd, (oldest, newest), deferred_for, how == "untouched")
        if dispatch.episode.uid != "u":
            new = self.journalled.enter_evaluated(result, b"", task=str(dispatch.episode.group))
            self.journalled.flush()
        else:
            entry = self.journalled.enter(result, b"", now=self.clock)
            new = entry.verdict != "duplicate"
            self.carry_out(entry.effects)
        assert new == (dispatch not in self.bills), "billed twice, or not at all"
        if new:
            self.bills[dispatch] = ALLOWANCE if usd is None else usd

    @rule()
    def expert_is_back(self) -> None:
        dispatches = self.journalled.retry(lambda expert: True, now=self.clock)
        self.journalled.flush()
        self.publish_dispatches(dispatches)

    @rule(seconds=st.sampled_from([1.0, PATIENCE]))
    def time_passes(self, seconds: float) -> None:
        self.clock += seconds
        self.journalled.presume(now=time.time() + seconds)
        self.journalled.flush()

    # ── the controller ─────────────────────────────────────────────────────────────────────────────────────────

    @rule()
    def admit(self) -> None:
        dispatches = self.journalled.admit(now=self.clock)
        self.journalled.flush()
        self.publish_dispatches(dispatches)

    @rule()
    def evaluate(self) -> None:
        """An order of an evaluation, between those of training."""
        uid = f"u-e{self.journalled.ledger.incarnation}x1"
        if not self.evaluated:
            self.journalled.evaluation(uid, Evaluation("held-out", "always:gpt"))
        dispatch = Dispatch(EpisodeId(uid, self.evaluated, 0), self.journalled.ledger.incarnation, 0)
        if self.journalled.dispatch(dispatch):
            self.evaluated += 1
            self.journalled.flush()
            self.publish_dispatches([dispatch])

    @precondition(lambda self: self.training is None)
    @rule()
    def begin(self) -> None:
        plan = self.journalled.next_step()
        if not isinstance(plan, Waiting):
            self.journalled.begin(plan)
            self.training = plan
        elif plan.stragglers and self.config.on_stale == "Drop":
            self.carry_out(self.journalled.kill(plan.stragglers, now=self.clock))

    @precondition(lambda self: self.training is not None)
    @rule(checkpoint=st.booleans())
    def publish(self, checkpoint: bool) -> None:
        self.training = None
        self.journalled.publish(self.journalled.ledger.step + 1)
        self.journalled.flush()
        if checkpoint:
            self.checkpoint()

    @rule(drops=st.integers(0, 3))
    def filter_out(self, drops: int) -> None:
        self.remove(drops)

    def remove(self, drops: int) -> int:
        """The filters remove complete groups; returns how many are still to be removed."""
        ledger = self.journalled.ledger
        complete = [n for n, g in ledger.groups.items() if g.state is GroupState.COMPLETE]
        taken = complete[: min(drops, 5 - ledger.filtered)]
        for number in taken:
            self.journalled.drop(number, "too_easy")
        self.journalled.flush()
        return drops - len(taken)

    @rule(lost=st.sampled_from(["", "leased", "bus"]), back=st.integers(0, 2), times=st.integers(1, 2))
    def kill(self, lost: str, back: int, times: int) -> None:
        """Lives that end at once; `back`: how many of the newest checkpoints are damaged."""
        if lost == "leased":  # the workers' machine went down: their results never come
            self.world.vanished |= self.world.leased.keys()
            self.world.leased.clear()
        if lost == "bus":  # its streams were made anew: it knows nothing of what was on the old ones
            self.unknown |= self.journalled.ledger.spend.reserved.keys()
            self.world.values.clear()
            self.world.queued.clear()
        del self.checkpoints[max(1, len(self.checkpoints) - back) :]
        for _ in range(times):
            self.life()

    @rule()
    def kill_before_publishing(self) -> None:
        """What is in the journal, and never was on the bus."""
        self.journalled.admit(now=self.clock)
        self.journalled.flush()
        self.life()

    @rule(drops=st.integers(0, 2), checkpoint=st.booleans())
    def never_stuck(self, drops: int, checkpoint: bool) -> None:
        """Whatever happened: if the world answers everything, the next step comes, or there is no money for it."""
        if self.training is not None:
            self.publish(checkpoint=False)
        for _ in range(40):
            self.admit()
            self.expert_is_back()
            for dispatch in sorted(self.world.queued):
                self.world.play(dispatch, Decimal(0))
            for dispatch in sorted(self.world.leased):
                self.answer(dispatch, "scored")
            self.time_passes(2 * PATIENCE)
            drops = self.remove(drops)
            self.begin()
            if self.training is not None:
                return self.publish(checkpoint=checkpoint)
            if self.journalled.ledger.broke:
                return None
        raise AssertionError(f"stuck: {self.journalled.next_step()}")

    # ── invariants ─────────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def bounded(self) -> None:
        assert len(self.journalled.ledger.groups) <= self.config.bound

    @invariant()
    def exact(self) -> None:
        history = read_history(self.disk)
        count = account(history)
        assert count.exact
        for dispatch, step in history.trained().items():
            accepted = history.accepted[dispatch]
            assert history.survives(accepted.newest), "trained on weights that did not survive"
            assert 0 <= step - 1 - accepted.oldest.step <= self.config.max_staleness

    @invariant()
    def never_over_the_cap(self) -> None:
        spend = self.journalled.ledger.spend
        assert spend.settled == sum(self.bills.values(), Decimal(0)) + sum(spend.presumed.values(), Decimal(0))
        assert spend.held == sum(spend.reserved.values(), Decimal(0))
        assert spend.dead.keys() <= spend.reserved.keys()
        assert spend.settled + spend.held >= sum(self.world.cost.values(), Decimal(0)), "spent, and not known"
        if self.cap is not None:
            assert spend.settled + spend.held <= self.cap

    def teardown(self) -> None:
        """All steps are done: nothing accepted is left without a fate, and what still arrives changes nothing."""
        if not hasattr(self, "books"):
            return
        if self.training is not None:
            self.journalled.publish(self.journalled.ledger.step + 1)
        self.journalled.finish()
        for dispatch, version in self.world.leased.items():
            if dispatch.episode.uid == "u":
                result = Result(dispatch, True, "x", Decimal("0.01"), (version, version))
                assert self.journalled.enter(result, b"", now=self.clock).verdict in ("late", "duplicate")
        self.journalled.flush()
        count = account(read_history(self.disk))
        assert (count.exact, count.open) == (True, 0)


BooksMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
