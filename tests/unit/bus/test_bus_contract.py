"""The contract of RolloutBus, run against every implementation."""

from __future__ import annotations

import asyncio

import pytest

from support.bus_rig import Make, collect, result, take, task
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.protocol import HANDED_BACK, LOST, BusFull, Change, ResultKind, RolloutBus


async def nothing_queued(bus: RolloutBus) -> bool:
    return await bus.lease(max_n=4, expiry=0.3) == []


async def test_a_task_arrives_as_it_was_sent(make: Make) -> None:
    bus = await (await make()).bus()
    sent = Envelope(
        id="u.7.1.0.2", body=b"\x00\xff order", purpose="evaluation", content="order/1", reason="größer: 5 %\n"
    )
    await bus.submit(sent)
    (lease,) = await take(bus)
    assert lease.envelope == sent
    assert (lease.delivery, lease.last) == (1, False)


async def test_a_completed_task_is_over_and_its_result_waits_for_the_ack(make: Make) -> None:
    rig = await make()
    worker, controller = await rig.bus(), await rig.bus()
    await controller.submit(task(1))
    (lease,) = await take(worker)
    await worker.heartbeat(lease)
    await worker.complete(lease, result(lease))
    (received,) = await collect(controller.results(), 1)
    assert received.kind is ResultKind.COMPLETED
    assert received.envelope == result(lease)
    depth = await controller.depth()
    assert (depth.queued, depth.leased, depth.results) == (0, 0, 1)
    await controller.ack(received)
    await controller.ack(received)
    assert (await controller.depth()).results == 0


async def test_lease_takes_what_is_there_and_never_more(make: Make) -> None:
    bus = await (await make()).bus()
    for n in range(5):
        await bus.submit(task(n))
    assert (await bus.depth()).queued == 5
    first = await bus.lease(max_n=3, expiry=5)
    assert [lease.envelope.id for lease in first] == [task(n).id for n in range(3)]
    rest = await bus.lease(max_n=3, expiry=5)
    assert len(rest) == 2
    assert await nothing_queued(bus)
    assert (await bus.depth()).leased == 5


async def test_a_waiting_lease_returns_with_the_first_task(make: Make) -> None:
    rig = await make()
    worker, controller = await rig.bus(), await rig.bus()
    waiting = asyncio.create_task(worker.lease(max_n=4, expiry=30))
    await asyncio.sleep(0)
    await controller.submit(task(1))
    async with asyncio.timeout(5):
        assert len(await waiting) == 1


async def test_a_result_under_another_id_is_refused(make: Make) -> None:
    bus = await (await make()).bus()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    with pytest.raises(ValueError, match="cannot settle"):
        await bus.complete(lease, Envelope(id="u.2.0.0.0"))


async def test_submit_is_idempotent_by_id(make: Make) -> None:
    bus = await (await make()).bus()
    await bus.submit(task(1))
    await bus.submit(task(1))
    assert len(await take(bus)) == 1
    assert await nothing_queued(bus)


async def test_a_refused_task_may_be_submitted_again_under_its_id(make: Make) -> None:
    bus = await (await make(max_tasks=2)).bus()
    await bus.submit(task(1))
    await bus.submit(task(2))
    for _ in range(3):
        with pytest.raises(BusFull, match=r"maximum|limit"):
            await bus.submit(task(3))
    done = await take(bus, 1)
    await bus.complete(done[0], result(done[0]))
    await bus.submit(task(3))
    assert [lease.envelope.id for lease in await take(bus, 2)] == [task(2).id, task(3).id]


async def test_a_silent_worker_loses_its_task_to_another(make: Make) -> None:
    rig = await make(ack_wait=0.4)
    silent, other = await rig.bus(), await rig.bus()
    await silent.submit(task(1))
    (lost,) = await take(silent)
    assert (await other.depth()).redelivered == 0
    (lease,) = await take(other)
    assert (lease.envelope.id, lease.delivery) == (lost.envelope.id, 2)
    assert (await other.depth()).redelivered == 1


async def test_heartbeats_keep_a_task(make: Make) -> None:
    rig = await make(ack_wait=0.6)
    worker, other = await rig.bus(), await rig.bus()
    await worker.submit(task(1))
    (lease,) = await take(worker)
    for _ in range(6):
        await worker.heartbeat(lease)
        assert await other.lease(max_n=1, expiry=0.2) == []
    await worker.complete(lease, result(lease))
    assert await nothing_queued(other)


async def test_two_workers_results_of_one_dispatch_collapse(make: Make) -> None:
    rig = await make(ack_wait=0.4)
    slow, quick = await rig.bus(), await rig.bus()
    await slow.submit(task(1))
    (first,) = await take(slow)
    (second,) = await take(quick)
    await quick.complete(second, result(second, b"quick"))
    await slow.complete(first, result(first, b"slow"))
    assert (await quick.depth()).results == 1
    (received,) = await collect(quick.results(), 1)
    assert received.envelope.body == b"quick"


async def test_a_worker_that_vanishes_at_the_last_delivery_leaves_a_dead_task(make: Make) -> None:
    bus = await (await make(ack_wait=0.3, max_deliver=2)).bus()
    results = bus.results()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    assert not lease.last
    dead = asyncio.create_task(collect(results, 1))
    # The second delivery goes to nobody who cares, either.
    while not dead.done():
        await bus.lease(max_n=1, expiry=0.2)
    (received,) = await dead
    assert received.kind is ResultKind.DEAD
    assert (received.envelope.id, received.envelope.reason, received.envelope.body) == (task(1).id, LOST, b"")
    await bus.ack(received)
    depth = await bus.depth()
    assert (depth.queued, depth.leased, depth.results) == (0, 0, 0)


async def test_a_failed_task_is_dead_at_once_with_its_report(make: Make) -> None:
    """It may have been paid for: no other worker is to play and pay it again."""
    bus = await (await make(max_deliver=3)).bus()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    assert (lease.delivery, lease.last) == (1, False)
    await bus.fail(lease, result(lease, b"report", reason="KeyError: 'x'"))
    assert await nothing_queued(bus)
    (received,) = await collect(bus.results(), 1)
    assert received.kind is ResultKind.DEAD
    assert (received.envelope.body, received.envelope.reason) == (b"report", "KeyError: 'x'")


async def test_deferring_burns_no_delivery_and_says_so(make: Make) -> None:
    bus = await (await make()).bus()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    await bus.defer(lease, result(lease, reason="expert qwen-32b is out"))
    (received,) = await collect(bus.results(), 1)
    assert received.kind is ResultKind.DEFERRED
    assert received.envelope.reason == "expert qwen-32b is out"
    assert await nothing_queued(bus)


async def test_a_task_handed_back_goes_to_another_worker_at_once(make: Make) -> None:
    rig = await make(ack_wait=60)
    leaving, other = await rig.bus(), await rig.bus()
    await leaving.submit(task(1))
    (lease,) = await take(leaving)
    await leaving.hand_back(lease)
    (again,) = await take(other)
    assert again.envelope.id == lease.envelope.id


async def test_a_task_handed_back_at_its_last_delivery_is_deferred(make: Make) -> None:
    bus = await (await make(max_deliver=1, ack_wait=7)).bus()
    assert bus.ack_wait == 7
    await bus.submit(task(1))
    (lease,) = await take(bus)
    assert lease.last
    await bus.hand_back(lease)
    (received,) = await collect(bus.results(), 1)
    assert (received.kind, received.envelope.reason) == (ResultKind.DEFERRED, HANDED_BACK)


async def test_cancelled_tasks_are_never_delivered(make: Make) -> None:
    bus = await (await make(ack_wait=0.4)).bus()
    for n in range(3):
        await bus.submit(task(n))
    (held,) = await take(bus)
    await bus.cancel([task(0).id, task(1).id, "u.99.0.0.0"])
    (lease,) = await take(bus)
    assert lease.envelope.id == task(2).id
    # The one that was being worked on may still answer: the ledger calls it late.
    await bus.complete(held, result(held))
    await bus.complete(lease, result(lease))
    assert await bus.lease(max_n=1, expiry=0.8) == []
    assert {r.envelope.id for r in await collect(bus.results(), 2)} == {task(0).id, task(2).id}


async def test_drain_drops_every_task(make: Make) -> None:
    bus = await (await make()).bus()
    for n in range(4):
        await bus.submit(task(n, purpose="train" if n % 2 else "evaluation"))
    await bus.drain()
    assert (await bus.depth()).queued == 0
    assert await nothing_queued(bus)


async def test_taking_back_tells_what_no_worker_ever_got(make: Make) -> None:
    """What was never delivered has cost nothing; what was, is being worked on or was handed back, may have."""
    rig = await make(ack_wait=5)
    bus, worker = await rig.bus(), await rig.bus()
    for n in range(6):
        await bus.submit(task(n, purpose="train" if n % 2 else "evaluation"))
    held, handed_back, answered = await take(worker, 3)
    await worker.hand_back(handed_back)
    await worker.complete(answered, result(answered))
    ids = [task(n).id for n in range(6)]
    assert await bus.unseen([*ids, "u.99.0.0.0"]) == set(ids[3:])
    taken = await bus.cancel([ids[2], ids[3], "u.99.0.0.0"])
    assert (taken.unseen, taken.seen) == ({ids[3]}, set())
    taken = await bus.drain()
    assert (taken.unseen, taken.seen) == ({ids[4], ids[5]}, {ids[0], ids[1]})
    assert await nothing_queued(worker)
    assert await bus.answered() == {answered.envelope.id}
    await worker.complete(held, result(held))
    for received in await collect(bus.results(), 2):
        await bus.ack(received)
    assert await bus.answered() == set()
    assert (await bus.drain()).unseen == set()


async def test_unacked_results_come_again_to_the_next_reader(make: Make) -> None:
    rig = await make()
    bus = await rig.bus()
    for n in range(2):
        await bus.submit(task(n))
        (lease,) = await take(bus)
        await bus.complete(lease, result(lease))
    first = await collect(bus.results(), 2)
    await bus.ack(first[0])
    (again,) = await collect(bus.results(), 1)
    assert again.envelope.id == first[1].envelope.id


@pytest.mark.parametrize("size", [512 * 1024, 512 * 1024 + 1, 3_000_000])
async def test_large_bodies_travel_whole(make: Make, size: int) -> None:
    rig = await make()
    worker, controller = await rig.bus(), await rig.bus()
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await controller.submit(task(1, body))
    (lease,) = await take(worker)
    assert lease.envelope.body == body
    await worker.complete(lease, result(lease, body[::-1]))
    (received,) = await collect(controller.results(), 1)
    assert received.envelope.body == body[::-1]
    await controller.ack(received)


async def test_a_large_body_that_is_sent_twice_arrives_whole(make: Make) -> None:
    """The first sending stands, and a later one under its id never takes the body that it names with it."""
    rig = await make(ack_wait=0.3)
    slow, worker, controller = await rig.bus(), await rig.bus(), await rig.bus()
    body = bytes(range(256)) * 4000
    for _ in range(3):
        await controller.submit(task(1, body))
    (late,) = await take(slow)
    (lease,) = await take(worker)
    assert lease.envelope.body == body
    await worker.complete(lease, result(lease, body))
    await slow.complete(late, result(late, b"y" * 600_000))
    (received,) = await collect(controller.results(), 1)
    assert received.envelope.body == body


async def test_state_is_put_read_and_deleted(make: Make) -> None:
    rig = await make()
    one, other = await rig.bus(), await rig.bus()
    assert await other.get("pause") is None
    await one.put("pause", b"spend cap")
    assert await other.get("pause") == b"spend cap"
    await one.put("pause", b"")
    assert await other.get("pause") == b""
    await one.delete("pause")
    await one.delete("pause")
    assert await other.get("pause") is None


async def test_watch_shows_what_is_there_and_what_changes(make: Make) -> None:
    rig = await make()
    one, other = await rig.bus(), await rig.bus()
    await one.put("engines.a", b"0-1")
    await one.put("pause", b"no")
    watch = other.watch("engines.")
    async with asyncio.timeout(10):
        assert await anext(watch) == Change(key="engines.a", value=b"0-1")
        await one.put("engines.b", b"0-1")
        assert await anext(watch) == Change(key="engines.b", value=b"0-1")
        await one.delete("engines.a")
        assert await anext(watch) == Change(key="engines.a", value=None)
        exact, everything = other.watch("pause"), other.watch()
        assert await anext(exact) == Change(key="pause", value=b"no")
        assert {(await anext(everything)).key, (await anext(everything)).key} >= {"pause"}
    for open_watch in (watch, exact, everything):
        await open_watch.aclose()  # type: ignore[attr-defined]


async def test_a_closed_bus_ends_its_streams(make: Make) -> None:
    bus = await (await make()).bus()
    await bus.submit(task(1))
    [lease] = await take(bus)
    await bus.complete(lease, result(lease))
    results = bus.results()
    await collect(results, 1)  # so that it is being read, and no more comes
    reading = asyncio.create_task(anext(results, None))
    await asyncio.sleep(0)
    await bus.close()
    await bus.close()
    async with asyncio.timeout(5):
        assert await reading is None
