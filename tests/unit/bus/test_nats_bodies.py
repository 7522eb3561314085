"""Messages and bodies that are damaged, large or named by nobody: none stops a reader, none is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from nats.js import JetStreamContext

from support.bus_rig import QUICK, Make, Rig, collect, result, take, task
from support.nats_faults import raw
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import BusFull, BusUnavailable, ResultKind, RolloutBus
from toolorchestra.bus.streams import StreamNames
from toolorchestra.local.nats_server import NatsServer


class LosesAcks:
    """A JetStream context whose next publishes are stored, and whose acknowledgements never come."""

    def __init__(self, js: JetStreamContext, lost: int, meanwhile: Callable[[], Awaitable[None]] | None) -> None:
        self._js, self.lost, self._meanwhile = js, lost, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._js, name)

    async def publish(self, *args: Any, **kwargs: Any) -> Any:
        ack = await self._js.publish(*args, **kwargs)
        if self.lost > 0:
            self.lost -= 1
            if self._meanwhile is not None:
                await self._meanwhile()
            raise TimeoutError
        return ack


def losing_acks(bus: RolloutBus, *, lost: int = 1, meanwhile: Callable[[], Awaitable[None]] | None = None) -> NatsBus:
    """`bus`, whose server's next PubAcks are lost on their way, which takes as long as `meanwhile`."""
    assert isinstance(bus, NatsBus)
    bus.connection.js = LosesAcks(bus.connection.js, lost, meanwhile)  # type: ignore[assignment]
    return bus


async def test_a_damaged_body_is_an_infrastructure_failure(nats_make: Make, server: NatsServer) -> None:
    """A chunk overwritten in the bucket: the result is dead (the controller dispatches the episode again), never
    wrong."""
    rig = await nats_make()
    bus = await rig.bus()
    for n in range(2):
        await bus.submit(task(n))
    first, second = await take(bus, 2)
    await bus.complete(first, result(first, b"a" * 600_000))
    names = StreamNames(rig.uid)
    async with raw(server) as js:
        stream = f"OBJ_{names.payloads}"
        info = await js.stream_info(stream, subjects_filter=f"$O.{names.payloads}.C.>")
        (chunks,) = info.state.subjects
        chunk = await js.get_last_msg(stream, chunks)
        await js.delete_msg(stream, chunk.seq)
        await js.publish(chunks, b"b" * len(chunk.data))
    (received,) = await collect(bus.results(), 1)
    assert (received.kind, received.envelope.id, received.envelope.body) == (ResultKind.DEAD, first.envelope.id, b"")
    assert "digest" in received.envelope.reason
    await bus.ack(received)
    await bus.complete(second, result(second))
    (whole,) = await collect(bus.results(), 1)
    assert whole.kind is ResultKind.COMPLETED


async def test_a_task_whose_body_is_gone_is_dead_at_once(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make()
    bus = await rig.bus()
    await bus.submit(task(1, b"x" * 600_000, purpose="evaluation"))
    async with raw(server) as js:
        await js.purge_stream(f"OBJ_{StreamNames(rig.uid).payloads}")
    leases = asyncio.create_task(bus.lease(max_n=1, expiry=8))
    (received,) = await collect(bus.results(), 1)
    assert await leases == []
    assert (received.kind, received.envelope.id, received.envelope.purpose) == (
        ResultKind.DEAD,
        task(1).id,
        "evaluation",
    )
    assert "missing" in received.envelope.reason


async def test_a_message_of_another_version_is_dead_not_guessed(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make()
    bus = await rig.bus()
    subject = StreamNames(rig.uid).task_subject(purpose="train", id_="u.1.0.0.0")
    async with raw(server) as js:
        await js.publish(subject, b"order", headers={"To-Envelope": "2", "To-Id": "u.1.0.0.0"})
    assert await bus.lease(max_n=1, expiry=1) == []
    (received,) = await collect(bus.results(), 1)
    assert received.envelope.id == "u.1.0.0.0"
    assert "envelope version '2'" in received.envelope.reason


async def test_settled_bodies_leave_nothing_in_the_bucket(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make(ack_wait=0.5)
    slow, bus = await rig.bus(), await rig.bus()
    body = b"x" * 700_000
    await bus.submit(task(1, body))
    await bus.submit(task(1, body))
    (late,) = await take(slow)
    (lease,) = await take(bus)
    await bus.complete(lease, result(lease, body))
    await slow.complete(late, result(late, body))
    (received,) = await collect(bus.results(), 1)
    await bus.ack(received)
    async with raw(server) as js:
        info = await js.stream_info(f"OBJ_{StreamNames(rig.uid).payloads}")
    assert info.state.messages == 0


@pytest.mark.parametrize(
    ("subject", "headers", "told"),
    [
        ("results.completed.u.9.0.0.0", {}, True),
        ("results.completed.u.9.0.0.0", {"To-Envelope": "2"}, True),
        ("results.completed.u.9.0.0.0", {"To-Envelope": "1"}, True),
        ("results.completed.u.9.0.0.0", {"To-Envelope": "1", "To-Id": "ü", "To-Purpose": "train"}, True),
        ("results.nothing.u.9.0.0.0", {"To-Envelope": "1", "To-Id": "u.9.0.0.0", "To-Purpose": "train"}, True),
        ("dead.u.9.0.0.0", {"To-Payload": "{}", "To-Envelope": "1", "To-Id": "a", "To-Purpose": "b"}, True),
        ("results.completed.ü", {}, False),
        ("results.alone", {}, False),
    ],
)
async def test_no_message_stops_the_results(
    nats_make: Make, server: NatsServer, subject: str, headers: dict[str, str], told: bool
) -> None:
    """Whatever somebody publishes there: dead under its subject's dispatch, or forgotten where there is none."""
    rig = await nats_make()
    bus = await rig.bus()
    await bus.submit(task(1))
    (lease,) = await take(bus)
    async with raw(server) as js:
        await js.publish(f"to.{rig.uid}.{subject}", b"garbage", headers=headers)
    await bus.complete(lease, result(lease))
    found = {r.envelope.id: r for r in await collect(bus.results(), 2 if told else 1)}
    assert found[task(1).id].kind is ResultKind.COMPLETED
    if told:
        dead = found["u.9.0.0.0"]
        assert (dead.kind, dead.envelope.content, dead.envelope.body) == (ResultKind.DEAD, "unreadable", b"garbage")


@pytest.mark.parametrize("id_", ["u.9.0.0.0", "ü"])
async def test_no_message_stops_the_workers(nats_make: Make, server: NatsServer, id_: str) -> None:
    rig = await nats_make()
    bus = await rig.bus()
    async with raw(server) as js:
        await js.publish(StreamNames(rig.uid).task_subject(purpose="train", id_=id_), b"garbage")
    await bus.submit(task(1))
    (lease,) = await take(bus)
    assert lease.envelope == task(1)


LARGE = b"x" * 700_000


async def bodies(rig: Rig, server: NatsServer) -> int:
    """Messages in the training's object bucket."""
    async with raw(server) as js:
        return (await js.stream_info(f"OBJ_{StreamNames(rig.uid).payloads}")).state.messages


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_large_body_survives_a_lost_acknowledgement(nats_make: Make, server: NatsServer, lost: int) -> None:
    """The retry is told `duplicate`: the message that stands is our own, and so is the body that it names."""
    rig = await nats_make()
    bus = losing_acks(await rig.bus(), lost=lost)
    await bus.submit(task(1, LARGE))
    (lease,) = await take(bus)
    assert lease.envelope.body == LARGE
    losing_acks(bus, lost=lost)
    await bus.complete(lease, result(lease, LARGE))
    (received,) = await collect(bus.results(), 1)
    assert (received.kind, received.envelope.body) == (ResultKind.COMPLETED, LARGE)
    await bus.ack(received)
    assert await bodies(rig, server) == 0


async def test_a_task_that_was_played_before_the_publish_was_repeated_is_not_played_again(
    nats_make: Make, server: NatsServer
) -> None:
    rig = await nats_make()
    worker = await rig.bus()

    async def play() -> None:
        (lease,) = await take(worker)
        await worker.complete(lease, result(lease))

    bus = losing_acks(await rig.bus(), meanwhile=play)
    await bus.submit(task(1))
    depth = await bus.depth()
    assert (depth.queued, depth.leased, depth.results) == (0, 0, 1)


async def test_a_sender_that_gives_up_leaves_the_body_that_may_be_named(nats_make: Make, server: NatsServer) -> None:
    """Every acknowledgement is lost until the deadline: whether the message stands is unknown, so its body stays."""
    rig = await nats_make()
    bus = await NatsBus.connect(server.url, uid=rig.uid, timeouts=replace(QUICK, deadline=0.3))
    rig.opened.append(bus)
    await bus.submit(task(1))
    (lease,) = await take(bus)
    losing_acks(bus, lost=1000)
    with pytest.raises(BusUnavailable):
        await bus.complete(lease, result(lease, LARGE))
    (received,) = await collect(bus.results(), 1)
    assert (received.kind, received.envelope.body) == (ResultKind.COMPLETED, LARGE)


async def test_a_refused_body_and_a_duplicate_of_another_leave_nothing(nats_make: Make, server: NatsServer) -> None:
    rig = await nats_make(max_tasks=1)
    bus = await rig.bus()
    await bus.submit(task(1))
    with pytest.raises(BusFull):
        await bus.submit(task(2, LARGE))
    assert await bodies(rig, server) == 0
    (lease,) = await take(bus)
    await bus.complete(lease, result(lease))
    (received,) = await collect(bus.results(), 1)
    await bus.ack(received)
    losing_acks(bus)
    await bus.complete(lease, result(lease, LARGE))
    assert await bodies(rig, server) == 0, "the first result stood, and was acknowledged"
