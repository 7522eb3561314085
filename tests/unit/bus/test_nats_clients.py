"""Clients that are cancelled, slow, hung or closing; the server goes on, or does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Iterable, Iterator

import pytest
from nats.js.errors import APIError

from support.bus_rig import Make, collect, eventually, result, take, task
from support.nats_faults import kill, raw
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import BusUnavailable
from toolorchestra.bus.streams import WORKERS, StreamNames, StreamSettings, make_streams
from toolorchestra.local.nats_server import NatsServer


@contextlib.contextmanager
def hung(server: NatsServer) -> Iterator[None]:
    """kill -STOP: connected, and never an answer."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def seconds(work: Awaitable[None], *, at_most: float) -> float:
    """How long it takes; a failure, and no wait for its cancellation, where it takes too long."""
    began = time.monotonic()
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=at_most)
    assert done, f"no end in {at_most} s: {task.get_stack()}"
    await task
    return time.monotonic() - began


async def an_answer_is_there(bus: NatsBus) -> None:
    """Return in the very step in which a request's answer has come and its sender has not run yet."""
    waiting = bus.connection.client._resp_map
    async with asyncio.timeout(10):
        while not any(answer.done() for answer in waiting.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_lease_that_was_cancelled_forgets_nothing(nats_make: Make, server: NatsServer) -> None:
    """SIGTERM while waiting: what the server sends to a request that nobody awaits any more is kept or given back."""
    rig = await nats_make(ack_wait=60)
    leaving, controller = await rig.bus(), await rig.bus()
    waiting = asyncio.create_task(leaving.lease(max_n=1, expiry=10))
    async with raw(server) as js:
        names = StreamNames(rig.uid)
        await eventually(lambda: js.consumer_info(names.tasks, WORKERS), lambda info: info.num_waiting == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await controller.submit(task(1))
    await eventually(controller.depth, lambda depth: depth.leased == 1)
    await leaving.close()
    (lease,) = await take(controller)
    assert lease.envelope.id == task(1).id


async def test_the_next_controller_gets_what_the_last_one_did_not_ack(nats_make: Make) -> None:
    rig = await nats_make()
    first, worker = await rig.bus(), await rig.bus()
    for n in range(3):
        await first.submit(task(n))
        (lease,) = await take(worker)
        await worker.complete(lease, result(lease))
    seen = await collect(first.results(), 3)
    await first.ack(seen[0])
    await first.close()
    second = await rig.bus()
    again = await collect(second.results(), 2)
    assert {r.envelope.id for r in again} == {r.envelope.id for r in seen[1:]}


async def test_a_controller_that_takes_its_time_is_not_sent_the_same_twice(nats_make: Make) -> None:
    rig = await nats_make(result_ack_wait=0.4)
    bus = await rig.bus()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    await bus.complete(lease, result(lease))
    results = bus.results()
    (received,) = await collect(results, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.2):
            await anext(results)
    await bus.ack(received)
    assert (await bus.depth()).results == 0


async def test_a_hung_loop_does_not_run_its_task_twice(nats_make: Make) -> None:
    bus = await (await nats_make(ack_wait=0.3)).bus()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    assert await bus.lease(max_n=1, expiry=1) == []
    await bus.complete(lease, result(lease))
    assert (await bus.depth()).leased == 0


async def test_two_trainings_never_meet(nats_make: Make) -> None:
    one, other = await nats_make(), await nats_make()
    a, b = await one.bus(), await other.bus()
    await a.submit(task(1))
    await a.put("pause", b"yes")
    assert await b.lease(max_n=1, expiry=0.2) == []
    assert await b.get("pause") is None
    assert len(await take(a)) == 1


async def test_streams_are_made_again_with_other_limits(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make(max_tasks=1)
    bus = await rig.bus()
    await bus.submit(task(1))
    async with raw(server) as js:
        await make_streams(js, uid=rig.uid, settings=StreamSettings(max_tasks=5))
    await bus.submit(task(2))
    assert len(await take(bus, 2)) == 2


async def test_a_request_that_is_cancelled_while_its_answer_arrives_is_cancelled(nats_make: Make) -> None:
    """asyncio.wait_for before Python 3.12 returns the answer and drops the cancellation."""
    bus = await (await nats_make()).bus()
    assert isinstance(bus, NatsBus)
    asking = asyncio.create_task(bus.submit(task(1)))
    await an_answer_is_there(bus)
    asking.cancel()
    await asyncio.wait({asking}, timeout=5)
    assert asking.cancelled()


async def test_closing_ends_although_a_lost_pull_is_being_looked_into(nats_make: Make, server: NatsServer) -> None:
    """The server was killed under a consumer, and its answer meets the cancellation: the loop must end all the same."""
    bus = await (await nats_make()).bus()
    assert isinstance(bus, NatsBus)
    reading = asyncio.create_task(anext(bus.results()))
    await eventually(bus.depth, lambda depth: depth.results == 0)
    await kill(server)
    await an_answer_is_there(bus)
    assert await seconds(bus.close(), at_most=2.5) < 2.0
    await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("unread_bytes", [0, 8_000_000])
async def test_closing_ends_under_a_server_that_hangs(nats_make: Make, server: NatsServer, unread_bytes: int) -> None:
    """Also where the socket takes no more: nothing but a kill ends a write to a stopped process."""
    rig = await nats_make()
    bus, worker = await rig.bus(), await rig.bus()
    assert isinstance(bus, NatsBus)
    await worker.submit(task(1))
    (lease,) = await take(worker)
    await worker.complete(lease, result(lease))
    await collect(bus.results(), 1)
    client = bus.connection.client
    with hung(server):
        for _ in range(unread_bytes // 800_000):
            writing = asyncio.create_task(client.publish("nobody", b"x" * 800_000))
            await asyncio.wait({writing}, timeout=0.05)
        assert await seconds(bus.close(), at_most=4.0) < 3.0
        assert client.is_closed


async def test_closing_ends_without_a_server(nats_make: Make, server: NatsServer) -> None:
    """Killed and away for good, with a result unacked, a pull under way and a publish that waits."""
    rig = await nats_make()
    bus, worker = await rig.bus(), await rig.bus()
    await worker.submit(task(1))
    (lease,) = await take(worker)
    await worker.complete(lease, result(lease))
    await collect(bus.results(), 1)
    await server.stop()
    sending = asyncio.create_task(bus.submit(task(2)))
    assert await seconds(bus.close(), at_most=2.5) < 2.0
    with pytest.raises(BusUnavailable):
        await sending


@pytest.mark.parametrize(("left", "code"), [((1, 3), 10043), ((), 10057)], ids=["between others", "of none"])
async def test_a_task_that_is_settled_while_it_is_taken_back_is_taken_back(
    nats_make: Make, server: NatsServer, monkeypatch: pytest.MonkeyPatch, left: tuple[int, ...], code: int
) -> None:
    """It went between the look and the deletion; the server has two answers for that, by what its file still holds."""
    rig = await nats_make()
    bus = await rig.bus()
    assert isinstance(bus, NatsBus)
    look, names = bus.task_stream.numbers, StreamNames(rig.uid)
    for n in (1, 2, 3):
        await bus.submit(task(n))

    async def then_it_goes(ids: Iterable[str]) -> dict[str, int]:
        found = await look(ids)
        async with raw(server) as js:
            for n in {1, 2, 3} - set(left):
                await js.delete_msg(names.tasks, n)
            with pytest.raises(APIError) as refused:
                await js.delete_msg(names.tasks, 2)
        assert refused.value.err_code == code
        return found

    monkeypatch.setattr(bus.task_stream, "numbers", then_it_goes)
    withdrawn = await bus.cancel([task(2).id])
    assert withdrawn.unseen | withdrawn.seen == {task(2).id}
    assert (await bus.depth()).queued == len(left)
