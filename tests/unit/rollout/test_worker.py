"""The worker on the in-memory bus: every way a lease is settled, stopping, heartbeats, loop lag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from support.episode_world import OAK, RENDERER, FakeExperts, answer, host_of, order_of
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import ABANDONED, UNREADABLE, UNTOUCHED, Lease, Received, ResultKind
from toolorchestra.controller.wire import read_arrival
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.errors import ExpertUnavailable, Reason
from toolorchestra.policy.engine import NoEngine
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.codec import ORDER_CONTENT, decode_trace, encode_order
from toolorchestra.rollout.episode import Host
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Ending
from toolorchestra.rollout.worker import Worker, WorkerSettings

SETTINGS = WorkerSettings(concurrency=4, lease_expiry_seconds=0.5, grace_seconds=5.0, lag_interval_seconds=0.02)


def dispatch(n: int) -> str:
    return f"uid.{n}.0.0.0"


async def submit(bus: MemoryBus, *orders: Order) -> None:
    for order in orders:
        await bus.submit(Envelope(id=order.issue, body=encode_order(order), content="order/1"))


@asynccontextmanager
async def working(bus: MemoryBus, host: Host, *, settings: WorkerSettings = SETTINGS) -> AsyncIterator[Worker]:
    worker = Worker(bus=bus, host=host, settings=settings)
    running = asyncio.create_task(worker.run())
    yield worker
    worker.stop()
    await running


async def take(bus: MemoryBus, n: int) -> list[Received]:
    taken: list[Received] = []
    async for received in bus.results():
        await bus.ack(received)
        taken.append(received)
        if len(taken) == n:
            return taken
    raise AssertionError("the bus was closed")


async def test_every_order_comes_back_as_a_trace_of_its_dispatch() -> None:
    bus = MemoryBus()
    orders = [order_of(issue=dispatch(n)) for n in range(25)]
    await submit(bus, *orders)
    async with working(bus, host_of(lambda prompt: answer("oak"), worker="w-7")) as worker:
        results = await take(bus, 25)
    traces = [decode_trace(received.envelope.body) for received in results]
    assert {trace.issue for trace in traces} == {order.issue for order in orders}
    assert all(received.envelope.id == trace.issue for received, trace in zip(results, traces, strict=True))
    assert {(t.ending, t.worker) for t in traces} == {(Ending.ANSWERED, "w-7")}
    assert {received.kind for received in results} == {ResultKind.COMPLETED}
    assert worker.finished == 25
    assert (await bus.depth()).leased == 0


async def test_no_more_than_concurrency_at_once() -> None:
    bus = MemoryBus()
    experts = FakeExperts(gate=asyncio.Event())
    await submit(bus, *[order_of(issue=dispatch(n)) for n in range(9)])
    async with working(bus, host_of(lambda prompt: answer("oak"), experts=experts)):
        for _ in range(4):
            await experts.called.get()
        assert (await bus.depth()).leased == 4
        assert experts.gate is not None
        experts.gate.set()
        await take(bus, 9)
    assert experts.most_in_flight == 4


async def test_an_outage_defers_with_the_pools_name_and_burns_no_delivery() -> None:
    bus = MemoryBus()
    down = ExpertUnavailable(pool=OAK.pool, reason=Reason.CONNECTION, detail="refused")
    await submit(bus, order_of(issue=dispatch(1)))
    async with working(bus, host_of(lambda prompt: answer("oak"), experts=FakeExperts({OAK.pool: down}))):
        (received,) = await take(bus, 1)
    assert (received.kind, received.envelope.reason) == (ResultKind.DEFERRED, OAK.pool)
    assert decode_trace(received.envelope.body).ending is Ending.EXPERT_UNAVAILABLE


async def test_a_misconfigured_expert_defers_like_an_outage_and_says_what_to_mend() -> None:
    bus = MemoryBus()
    wrong = ExpertUnavailable(pool=OAK.pool, reason=Reason.MISCONFIGURED, detail="HTTP 401: no such key")
    await submit(bus, order_of(issue=dispatch(1)))
    async with working(bus, host_of(lambda prompt: answer("oak"), experts=FakeExperts({OAK.pool: wrong}))):
        (received,) = await take(bus, 1)
    assert (received.kind, received.envelope.reason) == (ResultKind.DEFERRED, OAK.pool)
    trace = decode_trace(received.envelope.body)
    assert (trace.ending, trace.expert) == (Ending.EXPERT_MISCONFIGURED, OAK.pool)
    assert trace.components.outcome is None
    assert "HTTP 401: no such key" in trace.detail
    assert "correct the pool" in trace.detail


async def test_an_unscored_ending_is_completed_not_failed() -> None:
    bus = MemoryBus()
    await submit(bus, order_of(issue=dispatch(1)))
    async with working(bus, host_of([])):
        (received,) = await take(bus, 1)
    assert received.kind is ResultKind.COMPLETED
    assert decode_trace(received.envelope.body).ending is Ending.ENGINE_LOST


async def test_a_poisonous_order_is_dead_at_once_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    bus = MemoryBus(max_deliver=3)
    await bus.submit(Envelope(id=dispatch(1), body=b"\x09nonsense", content=ORDER_CONTENT))
    await bus.submit(Envelope(id=dispatch(3), body=b"\x01", content="order/0"))
    await submit(bus, order_of(issue=dispatch(2)))
    async with working(bus, host_of(lambda prompt: answer("oak"))):
        results = {received.envelope.id: received for received in await take(bus, 3)}
    assert results[dispatch(1)].kind is ResultKind.DEAD
    assert "a body of order/0 content, where this release reads order/1" in results[dispatch(3)].envelope.reason
    assert results[dispatch(1)].envelope.reason.startswith(f"{UNREADABLE}: payload of version 9")
    arrival, refused = read_arrival(results[dispatch(1)])
    assert arrival is not None
    assert (refused, arrival.result().usd, arrival.result().scored) == (None, 0, False)  # nothing was spent
    assert results[dispatch(2)].kind is ResultKind.COMPLETED


async def test_stopping_lets_an_episode_finish_within_the_grace() -> None:
    bus = MemoryBus()
    experts = FakeExperts(gate=asyncio.Event())
    await submit(bus, order_of(issue=dispatch(1)))
    worker = Worker(bus=bus, host=host_of([answer("oak")], experts=experts), settings=SETTINGS)
    running = asyncio.create_task(worker.run())
    await experts.called.get()
    worker.stop()
    await submit(bus, order_of(issue=dispatch(2)))
    assert experts.gate is not None
    experts.gate.set()
    await running
    results = {received.envelope.id: received.envelope for received in await take(bus, 2)}
    assert decode_trace(results[dispatch(1)].body).ending is Ending.ANSWERED
    assert results[dispatch(2)].reason == UNTOUCHED, "what the last pull still brought"


@pytest.mark.parametrize("allowance", [None, Decimal(1)])
async def test_what_outlasts_the_grace_and_has_spent_nothing_goes_back_to_the_controller(
    allowance: Decimal | None,
) -> None:
    """Delivered again, it would look as if it had been played."""
    bus = MemoryBus()
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal(0))
    await submit(bus, order_of(issue=dispatch(1), allowance_usd=allowance))
    settings = replace(SETTINGS, grace_seconds=0.05)
    worker = Worker(bus=bus, host=host_of([answer("oak")], experts=experts), settings=settings)
    running = asyncio.create_task(worker.run())
    await experts.called.get()
    worker.stop()
    await running
    (received,) = await take(bus, 1)
    assert (received.kind, received.envelope.reason, received.envelope.body) == (ResultKind.DEFERRED, UNTOUCHED, b"")
    assert await bus.lease(max_n=4, expiry=0.1) == []
    assert worker.finished == 0


async def test_an_order_for_which_there_is_no_engine_goes_back_as_it_came() -> None:
    class Out(FakeEngine):
        async def routable(self, *, version: str | None = None) -> None:
            raise NoEngine("no routable engine in 120 s (paused)")

    bus = MemoryBus()
    await submit(bus, order_of(issue=dispatch(1)))
    async with working(bus, host_of(engine=Out(RENDERER, ()))) as worker:
        (received,) = await take(bus, 1)
    assert (received.kind, received.envelope.reason, received.envelope.body) == (ResultKind.DEFERRED, UNTOUCHED, b"")
    assert worker.finished == 0


async def test_what_outlasts_the_grace_and_may_have_spent_money_says_how_much() -> None:
    """Handed back, its bill would be nobody's: the next worker starts with the whole allowance."""
    bus = MemoryBus()
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal("0.7"))
    await submit(bus, order_of(issue=dispatch(1)))
    settings = replace(SETTINGS, grace_seconds=0.05)
    worker = Worker(bus=bus, host=host_of([answer("oak")], experts=experts), settings=settings)
    running = asyncio.create_task(worker.run())
    await experts.called.get()
    worker.stop()
    await running
    async with asyncio.timeout(5):
        (received,) = await take(bus, 1)
    trace = decode_trace(received.envelope.body)
    assert (received.kind, received.envelope.reason) == (ResultKind.COMPLETED, "the worker was told to stop")
    assert (trace.ending, trace.components.outcome) == (Ending.CANCELLED, None)
    assert trace.components.actual_usd == Decimal("0.7")
    assert await bus.lease(max_n=4, expiry=0.1) == []


async def test_what_breaks_the_worker_is_told_at_once_with_its_reason() -> None:
    """Delivered again it would look as if its worker had vanished, and why would be lost."""

    class Breaking(FakeExperts):
        def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
            self.called.put_nowait(pool)
            raise RuntimeError("a bug of ours")

    bus, experts = MemoryBus(max_deliver=3), Breaking()
    await submit(bus, order_of(issue=dispatch(1)))
    async with working(bus, host_of(lambda prompt: answer("oak"), experts=experts)):
        (received,) = await take(bus, 1)
    assert (received.kind, received.envelope.reason) == (ResultKind.DEAD, "RuntimeError: a bug of ours")
    assert experts.called.qsize() == 1


async def test_an_order_whose_worker_vanished_is_not_played_again() -> None:
    """What the first delivery spent is unknown: the controller counts its worst case, and reserves anew."""
    bus = MemoryBus()
    experts = FakeExperts()
    await submit(bus, order_of(issue=dispatch(1), allowance_usd=Decimal(1)))
    await submit(bus, order_of(issue=dispatch(2)))
    for lease in await bus.lease(max_n=2, expiry=1):
        await bus.hand_back(lease)  # as the bus does itself where heartbeats end
    async with working(bus, host_of(lambda prompt: answer("oak"), experts=experts)):
        results = {received.envelope.id: received for received in await take(bus, 2)}
    for lost in results.values():
        assert (lost.kind, lost.envelope.reason, lost.envelope.body) == (ResultKind.DEFERRED, ABANDONED, b"")
    assert experts.asked == []


async def test_what_another_worker_may_have_played_is_never_called_untouched() -> None:
    """The bill of whoever had it first is unknown: to give it back as untouched would make it free."""
    bus = MemoryBus()
    await submit(bus, order_of(issue=dispatch(0), allowance_usd=Decimal(2)))
    (first,) = await bus.lease(max_n=1, expiry=1.0)
    await bus.hand_back(first)

    class Stopping(MemoryBus):
        """Tells the worker to stop while it pulls."""

        async def lease(self, *, max_n: int, expiry: float) -> list[Lease]:
            worker.stop()
            return await bus.lease(max_n=max_n, expiry=expiry)

        async def hand_back(self, lease: Lease) -> None:
            await bus.hand_back(lease)

    worker = Worker(bus=Stopping(), host=host_of(), settings=SETTINGS)
    await worker.run()
    (again,) = await bus.lease(max_n=1, expiry=1.0)
    assert (again.envelope.id, again.delivery) == (dispatch(0), 3)


async def test_a_slow_episode_keeps_its_lease() -> None:
    bus = MemoryBus(ack_wait=0.3)
    experts = FakeExperts(gate=asyncio.Event())
    await submit(bus, order_of(issue=dispatch(1)))
    settings = replace(SETTINGS, heartbeat_seconds=0.05)
    async with working(bus, host_of(lambda prompt: answer("oak"), experts=experts), settings=settings):
        await experts.called.get()
        with pytest.raises(TimeoutError):  # no second delivery in twice the ack wait
            async with asyncio.timeout(0.7):
                await experts.called.get()
        assert experts.gate is not None
        experts.gate.set()
        await take(bus, 1)
    assert len(experts.asked) == 1


async def test_loop_lag_is_seen() -> None:
    seen = 0.0
    async with working(MemoryBus(), host_of()) as worker, asyncio.timeout(5):
        while seen < 0.1:
            time.sleep(0.15)  # noqa: ASYNC251 (blocks the loop on purpose)
            await asyncio.sleep(0.001)
            seen = worker.loop_lag_seconds
    assert seen >= 0.1
