"""The bus on a real nats-server that is killed, refuses, or lies about a body."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from support.bus_rig import QUICK, Make, result, take, task
from support.nats_faults import kill, raw
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import BusFull, BusGone, BusUnavailable, Change, Received, ResultKind
from toolorchestra.bus.streams import StreamNames, remove_streams
from toolorchestra.local.nats_server import NatsServer, free_port


async def test_nothing_is_lost_when_the_server_is_killed(nats_make: Make, server: NatsServer) -> None:
    """30 tasks, two workers, three kills: every dispatch ends with a result (one that comes twice is the journal's)."""
    rig = await nats_make(ack_wait=2)
    controller, workers = await rig.bus(), [await rig.bus(), await rig.bus()]
    expected = {task(n).id for n in range(30)}
    got: list[Received] = []

    async def work(bus: NatsBus) -> None:
        while True:
            for lease in await bus.lease(max_n=3, expiry=1):
                await bus.heartbeat(lease)
                await bus.complete(lease, result(lease))

    async def read() -> None:
        async for received in controller.results():
            got.append(received)
            await controller.ack(received)
            if {r.envelope.id for r in got} == expected:
                return

    loops = [asyncio.create_task(work(bus)) for bus in workers]  # type: ignore[arg-type]
    reader = asyncio.create_task(read())
    for n in range(30):
        await controller.submit(task(n))
        if n in (5, 15, 29):
            await kill(server)
    async with asyncio.timeout(30):
        await reader
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    assert {r.kind for r in got} == {ResultKind.COMPLETED}
    assert {r.envelope.id for r in got} == expected


async def test_an_id_that_the_server_remembers_from_a_refusal_is_not_swallowed(
    nats_make: Make, server: NatsServer
) -> None:
    """What a clustered server may do: keep the id of a publish that it then refuses, and answer `duplicate` later."""
    rig = await nats_make(max_tasks=1)
    bus = await rig.bus()
    await bus.submit(task(1))
    with pytest.raises(BusFull):
        await bus.submit(task(2))
    await bus.drain()
    names = StreamNames(rig.uid)
    async with raw(server) as js:
        subject = names.task_subject(purpose="train", id_=task(2).id)
        ack = await js.publish(subject, b"", headers={"Nats-Msg-Id": task(2).id})
        await js.delete_msg(names.tasks, ack.seq)
        assert (await js.publish(subject, b"", headers={"Nats-Msg-Id": task(2).id})).duplicate
    await bus.submit(task(2))
    (lease,) = await take(bus)
    assert lease.envelope == task(2)


async def test_a_publish_waits_for_the_server(nats_make: Make, server: NatsServer) -> None:
    bus = await (await nats_make()).bus()
    os.kill(server.pid, signal.SIGKILL)
    await bus.submit(task(1))
    await bus.put("progress", b"1")
    assert len(await take(bus)) == 1
    assert await bus.get("progress") == b"1"


async def test_a_watch_survives_the_server(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make()
    one, other = await rig.bus(), await rig.bus()
    await one.put("engines.a", b"0-1")
    watch = other.watch("engines.")
    async with asyncio.timeout(20):
        assert await anext(watch) == Change(key="engines.a", value=b"0-1")
        await kill(server)
        await one.put("engines.a", b"0-2")
        assert await anext(watch) == Change(key="engines.a", value=b"0-2")
    await watch.aclose()  # type: ignore[attr-defined]


async def test_a_server_that_stays_away_is_reported(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make()
    bus = await NatsBus.connect(server.url, uid=rig.uid, timeouts=replace(QUICK, deadline=0.5, request=0.2))
    await server.stop()
    with pytest.raises(BusUnavailable, match="did not answer in time"):
        await bus.submit(task(1))
    assert await bus.lease(max_n=1, expiry=0.2) == []
    await bus.close()
    with pytest.raises(BusUnavailable, match="closed"):
        await bus.lease(max_n=1, expiry=0.2)


async def test_nobody_there() -> None:
    port = free_port()
    with pytest.raises(BusUnavailable, match=f"no NATS server answers at nats://127.0.0.1:{port}"):
        await NatsBus.connect(f"nats://127.0.0.1:{port}", uid="t", timeouts=replace(QUICK, connect=0.5))


async def test_streams_that_do_not_exist_or_are_removed(nats_make: Make, server: NatsServer) -> None:
    with pytest.raises(BusGone, match="do not exist"):
        await NatsBus.connect(server.url, uid="never-made", timeouts=QUICK)
    rig = await nats_make()
    bus = await rig.bus()
    waiting = asyncio.create_task(bus.lease(max_n=1, expiry=10))
    async with raw(server) as js:
        await remove_streams(js, uid=rig.uid)
        await remove_streams(js, uid=rig.uid)
    async with asyncio.timeout(8):
        with pytest.raises(BusGone):
            await waiting
