"""The bus on a real nats-server that is killed, refuses, or lies about a body."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import nats
import pytest
from nats.js import JetStreamContext
from nats.js.errors import APIError

from support.bus_rig import QUICK, Make, Rig, collect, eventually, result, take, task
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import BusFull, BusGone, BusUnavailable, Change, Received, ResultKind, RolloutBus
from toolorchestra.bus.streams import WORKERS, Names, StreamSettings, make_streams, remove_streams
from toolorchestra.local.nats_server import NatsServer, free_port


async def kill(server: NatsServer) -> None:
    """kill -9, and wait until the supervisor has it up again."""
    starts = server.restarts
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(15):
        await server.restarted(after=starts)


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


@contextlib.asynccontextmanager
async def raw(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url)
    yield client.jetstream()
    await client.close()


async def test_nothing_is_lost_when_the_server_is_killed(nats_make: Make, server: NatsServer) -> None:
    """30 tasks, two workers, three kills: every issue ends with a result (one that comes twice is the journal's)."""
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
    names = Names(rig.uid)
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


async def test_a_damaged_body_is_an_infrastructure_failure(nats_make: Make, server: NatsServer) -> None:
    """A chunk overwritten in the bucket: the result is dead (the controller issues the episode again), never wrong."""
    rig = await nats_make()
    bus = await rig.bus()
    for n in range(2):
        await bus.submit(task(n))
    first, second = await take(bus, 2)
    await bus.complete(first, result(first, b"a" * 600_000))
    names = Names(rig.uid)
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
        await js.purge_stream(f"OBJ_{Names(rig.uid).payloads}")
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
    subject = Names(rig.uid).task_subject(purpose="train", id_="u.1.0.0.0")
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
        info = await js.stream_info(f"OBJ_{Names(rig.uid).payloads}")
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
    """Whatever somebody publishes there: dead under its subject's issue, or forgotten where there is none."""
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
        await js.publish(Names(rig.uid).task_subject(purpose="train", id_=id_), b"garbage")
    await bus.submit(task(1))
    (lease,) = await take(bus)
    assert lease.envelope == task(1)


LARGE = b"x" * 700_000


async def bodies(rig: Rig, server: NatsServer) -> int:
    """Messages in the training's object bucket."""
    async with raw(server) as js:
        return (await js.stream_info(f"OBJ_{Names(rig.uid).payloads}")).state.messages


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


async def test_a_lease_that_was_cancelled_forgets_nothing(nats_make: Make, server: NatsServer) -> None:
    """SIGTERM while waiting: what the server sends to a request that nobody awaits any more is kept or given back."""
    rig = await nats_make(ack_wait=60)
    leaving, controller = await rig.bus(), await rig.bus()
    waiting = asyncio.create_task(leaving.lease(max_n=1, expiry=10))
    async with raw(server) as js:
        names = Names(rig.uid)
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
    look, names = bus.task_stream.numbers, Names(rig.uid)
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
