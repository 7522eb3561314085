"""Evaluations over the in-memory bus with a real worker: every task is in the file, scored or not, and every cent is in
the journal, under the run's cap and over kills."""

from __future__ import annotations

import asyncio
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.episode_world import RENDERER, FakeExperts, answer
from support.evaluator_life import ALLOWANCE, ALONE, TASKS, Flaky, Life
from toolorchestra.api.conditions import Reason
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.controller.deferral import LONGEST_SECONDS, OUT_SECONDS, Outage
from toolorchestra.controller.evaluator import Evaluated, EvaluationRun
from toolorchestra.controller.pauses import Paused
from toolorchestra.evaluation.archive import evaluation_traces, lost_attempts
from toolorchestra.experts.errors import ExpertUnavailable
from toolorchestra.experts.errors import Reason as ExpertReason
from toolorchestra.experts.usage import Usage
from toolorchestra.ledger.history import read_history
from toolorchestra.ledger.journal import Kind, read_frames, read_synced
from toolorchestra.ledger.sibling import MAX_DEFERRALS, MAX_DISPATCHES
from toolorchestra.policy.engine import EngineLost, NoEngine
from toolorchestra.policy.fake import FakeEngine


def unavailable() -> ExpertUnavailable:
    return ExpertUnavailable(
        pool="pool-cheap", reason=ExpertReason.CONNECTION, detail="connection refused", usage=Usage()
    )


async def test_what_infrastructure_ended_every_time_is_recorded_as_unscored(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(prompt: str) -> str:
        asked.append(prompt)
        if prompt == asked[0]:
            raise EngineLost("no engine")
        return answer("pool-cheap")

    life = Life(tmp_path, FakeExperts(), FakeEngine(RENDERER, reply))
    async with life.running():
        done = await asyncio.wait_for(
            life.evaluator.run(EvaluationRun(life.suite, "policy", "policy"), into=tmp_path), 30
        )
    assert done == Evaluated(TASKS - 1, {"engine_lost": 1})
    assert str(done) == "4 tasks, 1 not scored (engine_lost 1)"
    assert asked.count(asked[0]) == MAX_DISPATCHES
    traces = evaluation_traces(tmp_path)["held-out"]["policy"]
    assert sorted(trace.components.outcome is None for trace in traces) == [False] * 4 + [True]
    frames = list(read_frames(tmp_path / "held-out" / "policy.traces"))
    assert [f.head["reason"] for f in frames if f.kind is Kind.UNSCORED] == ["engine_lost"]
    assert lost_attempts(tmp_path) == {}


async def test_an_evaluation_waits_for_an_engine_that_is_out(tmp_path: Path) -> None:
    waits = TASKS * 2 * MAX_DISPATCHES

    class Out(FakeEngine):
        async def routable(self, *, version: str | None = None) -> None:
            nonlocal waits
            waits -= 1
            if waits >= 0:
                raise NoEngine("no routable engine in 120 s (paused)")

    life = Life(tmp_path, FakeExperts(), Out(RENDERER, lambda prompt: answer("pool-cheap")))
    async with life.running():
        done = await asyncio.wait_for(
            life.evaluator.run(EvaluationRun(life.suite, "policy", "policy"), into=tmp_path), 30
        )
    assert done == Evaluated(TASKS, {})
    assert waits < 0
    assert life.spent == TASKS * Decimal("0.5"), "what was never played is free"


async def test_what_ended_without_a_trace_is_counted_too(tmp_path: Path) -> None:
    life = Life(tmp_path, Flaky(actual_usd=Decimal(0)))
    async with life.running():
        done = await life.evaluate()
    assert done.scored == TASKS - 1
    assert done.unscored == {"RuntimeError: a bug of ours": 1}
    assert lost_attempts(tmp_path) == {"held-out": {"always:pool-cheap": 1}}
    assert len(evaluation_traces(tmp_path)["held-out"]["always:pool-cheap"]) == TASKS - 1


# ── money ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_evaluation_stays_under_the_cap_and_pauses_where_it_is_reached(tmp_path: Path) -> None:
    life = Life(tmp_path, FakeExperts(), cap=Decimal("1.2"))
    async with life.running():
        with pytest.raises(Paused, match=r"spend cap.*maxSpendUSD") as paused:
            await life.evaluate()
    assert paused.value.reason is Reason.SPEND_CAP_REACHED
    assert len(life.experts.asked) == 2
    assert (life.spent, life.journalled.ledger.spend.held) == (Decimal(1), 0)


async def test_every_bill_is_on_disk_before_its_result_is_acknowledged(tmp_path: Path) -> None:
    life = Life(tmp_path, FakeExperts())
    known: list[Decimal] = []
    acknowledge = life.bus.ack

    async def ack(received: Any) -> None:
        known.append(life.spent)
        await acknowledge(received)

    life.bus.ack = ack  # type: ignore[method-assign]
    async with life.running():
        await life.evaluate()
    assert known == [ALLOWANCE * n for n in range(1, TASKS + 1)]


async def test_an_order_and_the_wait_for_its_bill_are_on_disk_before_the_bus_knows(tmp_path: Path) -> None:
    """A kill in between would make free what a worker may have played."""
    experts = FakeExperts(gate=asyncio.Event())
    life = Life(tmp_path, experts, cap=Decimal(100))
    path, submit, cancel = life.journalled.journal.path, life.bus.submit, life.bus.cancel
    seen: list[str] = []

    def on_disk(note: str) -> set[str]:
        heads = [f.head for f in read_frames(path) if f.end <= (read_synced(path) or 0)]
        return {dispatch for head in heads if head.get("note") == note for dispatch in head["issues"]}

    async def submitted(task: Any) -> None:
        assert task.id in on_disk("issued")
        seen.append(task.id)
        await submit(task)

    async def cancelled(ids: Any) -> Any:
        assert set(ids) <= on_disk("withdrawn")
        seen.extend(ids)
        return await cancel(ids)

    life.bus.submit, life.bus.cancel = submitted, cancelled  # type: ignore[method-assign]
    async with life.running():
        evaluating = asyncio.create_task(life.evaluate())
        for _ in range(4):
            await asyncio.wait_for(experts.called.get(), 10)
        evaluating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await evaluating
    assert len(seen) == 2 * TASKS


class Few(FakeExperts):
    """Answers that many calls, and leaves the others waiting."""

    left: int = 2

    async def ask(self, **fields: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            self.asked.append(("pool-cheap", fields["request"]))
            await asyncio.Event().wait()
        return await super().ask(**fields)


async def test_what_was_paid_and_scored_before_a_kill_is_not_paid_again(tmp_path: Path) -> None:
    experts, bus = Few(), MemoryBus(max_deliver=1)
    for scored in (2, 4):
        life = Life(tmp_path, experts, bus=bus, cap=Decimal(20))
        async with life.running():
            evaluating = asyncio.create_task(life.evaluate())
            while len(life.journalled.history.scored) < scored:
                await asyncio.wait({evaluating}, timeout=0.01)
            evaluating.cancel()
        life.journalled.journal.close()
        assert not (tmp_path / "held-out" / f"{ALONE}.traces").exists()
        assert len(read_history(read_frames(life.journalled.journal.path)).scored) == scored
        experts.left = 2
    paid, experts.left = len(experts.asked), TASKS
    last = Life(tmp_path, experts, bus=bus, cap=Decimal(20))
    async with last.running():
        assert await last.evaluate() == Evaluated(TASKS, {})
    assert len(experts.asked) == paid + 1
    assert last.spent == ALLOWANCE * len(experts.asked), "those that were cut off count their worst case"
    assert len(evaluation_traces(tmp_path)["held-out"][ALONE]) == TASKS


@pytest.mark.parametrize(("step", "again"), [(3, 0), (2, TASKS)], ids=["same weights", "weights were lost"])
async def test_the_policy_is_evaluated_again_where_its_weights_are_others(
    tmp_path: Path, step: int, again: int
) -> None:
    """The next incarnation calls the weights of its checkpoint by its own name."""
    engine = FakeEngine(RENDERER, lambda prompt: answer("pool-cheap"))
    experts = FakeExperts()
    engine.version = "0-3"
    first = Life(tmp_path, experts, engine, step=3)
    async with first.running():
        await first.evaluate(system="policy", name="policy", version="0-3")
    first.journalled.journal.close()
    second = Life(tmp_path, experts, engine, bus=first.bus, step=step)
    second.journalled.ledger.step, engine.version = 3, "1-3"
    async with second.running():
        assert await second.evaluate(system="policy", name="policy", version="1-3") == Evaluated(TASKS, {})
    assert len(experts.asked) == TASKS + again


async def test_a_result_that_is_delivered_again_to_the_next_incarnation_is_billed_once(tmp_path: Path) -> None:
    life = Life(tmp_path, FakeExperts())
    async with life.running():
        await life.evaluate()
    life.journalled.journal.close()
    again = Life(tmp_path, life.experts, bus=life.bus)
    await again.evaluator.take(life.taken)
    assert again.journalled.ledger.spend.settled == again.spent == ALLOWANCE * TASKS


# ── lost orders and outages ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_lost_order_is_sent_again(tmp_path: Path) -> None:
    life = Life(tmp_path, FakeExperts(), cap=Decimal(9), dispatch_timeout=0.1)
    submit, lost = life.bus.submit, []

    async def lossy(task: Any) -> None:
        if not lost:
            lost.append(task.id)
        else:
            await submit(task)

    life.bus.submit = lossy  # type: ignore[method-assign]
    async with life.running():
        assert await life.evaluate() == Evaluated(TASKS, {})
    spend = life.journalled.ledger.spend
    assert list(spend.dead) == lost, "it may have been played: its bill is waited for"
    life.journalled.presume(now=time.time() + 1)
    assert (spend.settled, spend.held) == (ALLOWANCE * (TASKS + 1), 0)


async def test_an_order_that_waits_for_a_worker_is_not_lost(tmp_path: Path) -> None:
    life = Life(tmp_path, FakeExperts(), dispatch_timeout=0.05)
    async with life.running(workers=False):
        evaluating = asyncio.create_task(life.evaluate())
        await asyncio.wait({evaluating}, timeout=0.5)
        assert (await life.bus.depth()).queued == TASKS
        assert all(dispatch.n == 0 for dispatch in life.evaluator._waiting)
        evaluating.cancel()
        await asyncio.gather(evaluating, return_exceptions=True)
        assert (await life.bus.depth()).queued == 0, "what nobody waits for is taken back"


async def test_an_outage_is_waited_out_and_is_no_failure(tmp_path: Path) -> None:
    down = [True]
    life = Life(tmp_path, FakeExperts({"pool-cheap": lambda: unavailable() if down[0] else r"\boxed{4}"}))
    async with life.running():
        evaluating = asyncio.create_task(life.evaluate())
        for tries in range(3):
            while len(life.taken) < TASKS + tries:
                await asyncio.wait({evaluating}, timeout=0.01)
            life.hours.now += 2 * LONGEST_SECONDS
        down[0] = False
        life.hours.now += 2 * LONGEST_SECONDS
        assert await evaluating == Evaluated(TASKS, {})
    assert len(life.experts.asked) <= 2 * TASKS + 4, "one try at a time, until a call succeeds"


async def test_one_task_that_an_expert_never_takes_is_given_up(tmp_path: Path) -> None:
    class Picky(FakeExperts):
        first: Any = None

        async def ask(self, *, request: Any, **fields: Any) -> Any:
            self.first = self.first or request.messages
            if request.messages == self.first:
                self.asked.append(("pool-cheap", request))
                raise unavailable()
            return await super().ask(request=request, **fields)

    life = Life(tmp_path, Picky())
    life.evaluator.deferrals.may_try = lambda pool: True  # type: ignore[method-assign]
    async with life.running():
        assert await life.evaluate() == Evaluated(TASKS - 1, {"expert_unavailable": 1})
    assert len(life.experts.asked) == TASKS - 1 + MAX_DEFERRALS


async def test_an_expert_that_stays_out_pauses_the_run(tmp_path: Path) -> None:
    life = Life(tmp_path, FakeExperts({"pool-cheap": unavailable()}))
    async with life.running():
        evaluating = asyncio.create_task(life.evaluate())
        while len(life.taken) < TASKS:
            await asyncio.wait({evaluating}, timeout=0.01)
        life.hours.now += OUT_SECONDS
        with pytest.raises(Paused, match=r"pool-cheap has been out for 30 minutes.*connection refused") as paused:
            await evaluating
    assert paused.value.reason is Reason.EXPERT_OUT


async def test_an_old_outage_does_not_pause_an_evaluation_that_has_only_begun(tmp_path: Path) -> None:
    """Training went on meanwhile, with the other experts; nobody knows whether this one is still out."""
    gate = asyncio.Event()
    life = Life(tmp_path, FakeExperts(gate=gate))
    life.evaluator.deferrals.outages["pool-cheap"] = Outage(since=life.hours(), try_at=life.hours())
    life.hours.now += 2 * OUT_SECONDS
    async with life.running():
        evaluating = asyncio.create_task(life.evaluate())
        await asyncio.wait({evaluating}, timeout=5 * life.evaluator.tick)
        assert not evaluating.done(), "it paused before any answer could come"
        gate.set()
        assert await evaluating == Evaluated(TASKS, {})
