"""Dispatches that die and workers that vanish: what is taken back, sent again and paid."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.controller_scene import Scene, either
from support.episode_world import FakeExperts, host_of
from toolorchestra.bus.envelope import without_body
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import UNTOUCHED
from toolorchestra.controller.outbox import reckon
from toolorchestra.ledger.history import read_history
from toolorchestra.ledger.journal import Kind, read_frames
from toolorchestra.ledger.ledger import Waiting
from toolorchestra.rollout.codec import TRACE_CONTENT, decode_order
from toolorchestra.rollout.worker import Worker, WorkerSettings


async def test_dead_dispatches_are_taken_off_the_bus_before_anyone_plays_them(tmp_path: Path) -> None:
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal("0.4"))
    scene = Scene(tmp_path, reply=either([]), experts=experts, steps=2, staleness=1, on_stale="Drop", cap=Decimal(40))
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    assert scene.journalled.ledger.spend.held == 16 * Decimal("0.5")
    (lease, *_) = await scene.bus.lease(max_n=1, expiry=1)
    await scene.controller.unblock(Waiting("stragglers are due", stragglers=(0, 1)))
    depth, spend = await scene.bus.depth(), scene.journalled.ledger.spend
    assert (depth.queued, depth.leased) == (16, 0), "8 of the first, 8 instead of the dead"
    assert list(spend.dead) == [lease.envelope.id]
    assert spend.held == 17 * Decimal("0.5"), "what a worker has had stays reserved until its bill comes"


async def test_an_order_that_no_worker_has_had_does_not_expire(tmp_path: Path) -> None:
    """The time-out runs from the lease, not from the publication."""
    scene = Scene(tmp_path, reply=either([]), steps=1, dispatch_timeout=-1.0, cap=Decimal(40))
    ledger = scene.journalled.ledger
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    await scene.controller.look_after()
    assert {s.live.n for g in ledger.groups.values() for s in g.siblings if s.live} == {0}
    leases = await scene.bus.lease(max_n=3, expiry=1)
    await scene.controller.look_after()
    lost = [s for g in ledger.groups.values() for s in g.siblings if s.live and s.live.n == 1]
    assert [str(s.episode) + ".0.0" for s in lost] == [lease.envelope.id for lease in leases]
    assert (await scene.bus.depth()).queued == 8
    await scene.controller.look_after()
    scene.journalled.flush()
    history = read_history(read_frames(scene.journalled.journal.path))
    assert history.spent == ledger.spend.settled == 3 * Decimal("0.5"), "nobody tells what they cost"


async def test_an_dispatch_that_dies_while_it_is_published_is_taken_back(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(40))
    first, *rest = scene.journalled.admit(now=time.time())
    submit = scene.bus.submit

    async def slowly(task: Any) -> None:
        scene.journalled.ledger.fail(first, reason="test", now=0)
        await submit(task)

    scene.bus.submit = slowly  # type: ignore[method-assign]
    await scene.controller.dispatcher.send([first])
    assert (await scene.bus.depth()).queued == 0
    scene.journalled.ledger.fail(rest[0], reason="test", now=0)
    await scene.controller.dispatcher.send([rest[0]])
    assert (await scene.bus.depth()).queued == 0, "dead before it was published"
    assert str(first) not in scene.journalled.ledger.spend.reserved
    assert str(rest[0]) not in scene.journalled.ledger.spend.reserved


async def test_three_lives_do_not_eat_the_cap(tmp_path: Path) -> None:
    """Each is killed with its orders on the queue, with one being played, and with one never published."""
    bus, played = MemoryBus(ack_wait=60), []
    for _ in range(3):
        scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10), bus=bus)
        await reckon(bus, scene.journalled, patience=60)
        spend = scene.journalled.ledger.spend
        assert (spend.settled, list(spend.dead)) == (0, played)
        dispatches = [*scene.journalled.restore(scene.recovery, now=0).dispatches, *scene.journalled.admit(now=0)]
        assert len(dispatches) == 8
        scene.journalled.flush()
        await scene.controller.dispatcher.send(dispatches[:-1])
        played += [lease.envelope.id for lease in await bus.lease(max_n=1, expiry=1)]
        scene.journalled.journal.close()
    last = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10), bus=bus)
    await reckon(bus, last.journalled, patience=-1)
    assert last.journalled.ledger.spend.held == 3 * Decimal("0.5")
    last.journalled.presume(now=time.time() + 60)
    assert (last.journalled.ledger.spend.settled, last.journalled.ledger.spend.held) == (3 * Decimal("0.5"), 0)


async def test_a_bus_that_was_made_anew_tells_nothing_of_what_was_published_before(tmp_path: Path) -> None:
    first = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10))
    await reckon(first.bus, first.journalled, patience=60)
    await first.controller.dispatcher.send(first.journalled.admit(now=0))
    first.journalled.journal.close()
    second = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal(10))
    await reckon(second.bus, second.journalled, patience=60)
    assert len(second.journalled.ledger.spend.dead) == 8
    assert second.journalled.ledger.spend.held == 8 * Decimal("0.5")


async def test_a_worker_that_is_told_to_stop_is_paid_for_and_is_no_failure(tmp_path: Path) -> None:
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal("0.4"))
    scene = Scene(tmp_path, reply=either([]), experts=experts, steps=1, cap=Decimal("9"))
    host = host_of(engine=scene.engine, experts=experts)
    settings = WorkerSettings(concurrency=16, lease_expiry_seconds=0.2, grace_seconds=0.05)
    worker = Worker(bus=scene.bus, host=host, settings=settings)
    working = asyncio.create_task(worker.run())
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    for _ in range(8):
        await experts.called.get()
    worker.stop()
    await working
    assert experts.gate is not None
    experts.gate.set()
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    scene.journalled.flush()
    stopped = [f for f in read_frames(scene.journalled.journal.path) if f.kind is Kind.UNSCORED]
    assert [(f.head["reason"], f.head["usd"]) for f in stopped] == [("cancelled", "0.4")] * 8
    spend = scene.journalled.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.4") + 8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8


@pytest.mark.parametrize("cap", [None, Decimal("9")])
async def test_a_worker_that_vanished_has_spent_its_worst_case_and_is_no_failure_of_the_run(
    cap: Decimal | None, tmp_path: Path
) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=cap)
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    for lease in await scene.bus.lease(max_n=8, expiry=1):
        await scene.bus.hand_back(lease)  # as the bus does itself where heartbeats end
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    scene.journalled.flush()
    lost = [f for f in read_frames(scene.journalled.journal.path) if f.kind is Kind.UNSCORED]
    assert [(f.head["reason"], f.head["usd"]) for f in lost] == [("worker_lost", "0.5")] * 8
    spend = scene.journalled.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5") + 8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8


@pytest.mark.parametrize("cap", [None, Decimal("90")])
async def test_what_nobody_tells_the_bill_of_counts_at_its_worst_with_and_without_a_cap(
    tmp_path: Path, cap: Decimal | None
) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=cap)
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    for lease in await scene.bus.lease(max_n=8, expiry=1):
        order = decode_order(lease.envelope.body)
        assert order.allowance_usd == (None if cap is None else Decimal("0.5")), "without a cap it bounds no worker"
        await scene.bus.complete(lease, replace(lease.envelope, body=b"no trace", content=TRACE_CONTENT))
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    spend = scene.journalled.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5") + 8 * Decimal("0.5"), 0)


async def test_an_order_that_a_worker_gave_back_is_free_and_does_not_count(tmp_path: Path) -> None:
    scene = Scene(tmp_path, reply=either([]), steps=1, cap=Decimal("9"))
    await scene.controller.dispatcher.send(scene.journalled.admit(now=time.time()))
    for lease in await scene.bus.lease(max_n=8, expiry=1):
        await scene.bus.defer(lease, without_body(lease.envelope, reason=UNTOUCHED))
    async with scene.running():
        row = (await scene.train())[0]
    assert row["episodes"] == 8
    spend = scene.journalled.ledger.spend
    assert (spend.settled, spend.held) == (8 * Decimal("0.5"), 0)
    assert scene.controller.failures.recent == [False] * 8
    assert row["unscored"] == {}
