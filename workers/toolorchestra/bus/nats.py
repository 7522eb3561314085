"""RolloutBus on NATS JetStream.

How it fulfils the contract:

- A result is published with its id, and its PubAck is awaited before the task is acked. A crash between the two leads
  to a second result, which the stream's duplicate window drops or the journal recognises.
- A refused task is not queued. A server may remember the id of a publish that it refused, and answer `duplicate` when
  the publish is repeated. After a refusal, such an answer counts only if the task is in the stream. (After a lost
  acknowledgement it counts: the task may have been played and settled already, and must not be played twice.)
- A large body belongs to the message that names it (messages.py).
- The server redelivers to the same process if its event loop was blocked. The process keeps its lease or result, and
  acks the newer delivery.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4

from nats.aio.msg import Msg
from nats.js.errors import NotFoundError

from toolorchestra.bus.connection import Connection, Timeouts, at_most
from toolorchestra.bus.envelope import Envelope, EnvelopeError, decode, unreadable, without_body
from toolorchestra.bus.inbox import Inbox
from toolorchestra.bus.messages import Messages
from toolorchestra.bus.payloads import INLINE_BYTES, PayloadDamaged
from toolorchestra.bus.protocol import (
    HANDED_BACK,
    LOST,
    BusUnavailable,
    Change,
    Depth,
    Lease,
    Received,
    ResultKind,
    Withdrawn,
    same_id,
)
from toolorchestra.bus.pull import Pull
from toolorchestra.bus.state import State
from toolorchestra.bus.streams import WORKERS, StreamNames
from toolorchestra.bus.task_stream import TaskStream

_log = logging.getLogger(__name__)

_GIVE_BACK_SECONDS = 1.0
"""Limit for giving messages back on close. The server redelivers the others after their ack_wait."""


class NatsBus:
    """See `RolloutBus`. Made by `NatsBus.connect`."""

    def __init__(self, connection: Connection, *, uid: str, inline_bytes: int = INLINE_BYTES) -> None:
        self.connection, self._names = connection, StreamNames(uid)
        self._messages = Messages(connection, payloads=self._names.payloads, inline_bytes=inline_bytes)
        self.task_stream = TaskStream(connection, self._names)
        self._state = State(connection, name=self._names.state)
        self._tasks = Pull(connection, stream=self._names.tasks, consumer=WORKERS)
        self._max_deliver, self.ack_wait = 0, 0.0
        self._leased: dict[int, Msg] = {}
        self._unacked: set[int] = set()
        """Answered tasks whose ack a restarted server did not confirm. They are acked when they are delivered again."""
        self._inbox: Inbox | None = None

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        uid: str,
        name: str = "",
        timeouts: Timeouts | None = None,
        inline_bytes: int = INLINE_BYTES,
    ) -> NatsBus:
        """Connect and bind. BusUnavailable: no answer at `url`; BusGone: the streams of `uid` do not exist.

        `inline_bytes`: a larger body is stored separately from its message.
        """
        connection = await Connection.open(url, name=name or f"toolorchestra-{uid}", timeouts=timeouts or Timeouts())
        async with AsyncExitStack() as unbound:
            unbound.push_async_callback(connection.close)
            bus = cls(connection, uid=uid, inline_bytes=inline_bytes)
            info = await bus._tasks.bind()
            bus._max_deliver, bus.ack_wait = info.config.max_deliver or 1, info.config.ack_wait or 30.0
            await bus._state.bind()
            unbound.pop_all()
        return bus

    # ── worker ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def lease(self, *, max_n: int, expiry: float) -> list[Lease]:
        messages = await self._tasks.fetch(max_n=max_n, expiry=expiry)
        return [lease for msg in messages if (lease := await self._open_task(msg)) is not None]

    async def _open_task(self, msg: Msg) -> Lease | None:
        token, delivery = msg.metadata.sequence.stream, msg.metadata.num_delivered
        if token in self._unacked:
            if await self._messages.settle(msg):
                self._unacked.discard(token)
            return None
        if token in self._leased:
            _log.warning(
                "%s was delivered again while this worker still runs it: heartbeats came too late", msg.subject
            )
            self._leased[token] = msg
            return None
        try:
            envelope = await self._messages.read(msg)
        except (EnvelopeError, PayloadDamaged) as error:
            await self._bury(msg, str(error))
            return None
        except BusUnavailable as error:
            _log.warning("%s could not be read; it will be delivered again: %s", msg.subject, error)
            return None
        self._leased[token] = msg
        return Lease(token=token, envelope=envelope, delivery=delivery, last=delivery >= self._max_deliver)

    async def _bury(self, msg: Msg, reason: str) -> None:
        """Report a task that no worker can read as dead. Its id is the end of the subject."""
        purpose, _, id_ = msg.subject.removeprefix(self._names.task_subject(purpose="", id_="")[:-1]).partition(".")
        _log.error("unreadable task %s: %s", id_, reason)
        if (dead := unreadable(id_, purpose=purpose, reason=reason)) is not None:
            await self._send(ResultKind.DEAD, dead)
        await self._messages.settle(msg)

    async def heartbeat(self, lease: Lease) -> None:
        msg = self._leased.get(lease.token)
        # While the broker is down, its redelivery timer does not run, and buffered heartbeats would be useless.
        if msg is not None and await self.connection.wait_until_up(0):
            await msg.in_progress()

    async def complete(self, lease: Lease, result: Envelope) -> None:
        await self._finish(lease, ResultKind.COMPLETED, result)

    async def defer(self, lease: Lease, result: Envelope) -> None:
        await self._finish(lease, ResultKind.DEFERRED, result)

    async def fail(self, lease: Lease, result: Envelope) -> None:
        await self._finish(lease, ResultKind.DEAD, result)

    async def hand_back(self, lease: Lease) -> None:
        if lease.last:
            await self._finish(lease, ResultKind.DEFERRED, without_body(lease.envelope, reason=HANDED_BACK))
        elif (msg := self._leased.pop(lease.token, None)) is not None:
            await msg.nak()

    async def _finish(self, lease: Lease, kind: ResultKind, result: Envelope) -> None:
        same_id(lease, result)
        await self._send(kind, result)
        if (msg := self._leased.pop(lease.token, None)) is not None and not await self._messages.settle(msg):
            self._unacked.add(lease.token)

    # ── controller ─────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, task: Envelope) -> None:
        names = self._names
        subject = names.task_subject(purpose=task.purpose, id_=task.id)
        ack = await self._messages.publish(subject, task, stream=names.tasks, message_id=task.id)
        if ack.duplicate and task.id in self._messages.refused and not await self.task_stream.holds(subject):
            _log.info(
                "%s: the server remembers a publish that it refused; sending it under another message id", task.id
            )
            await self._messages.publish(subject, task, stream=names.tasks, message_id=f"{task.id}~{uuid4().hex[:8]}")
        self._messages.refused.discard(task.id)

    async def cancel(self, ids: Iterable[str]) -> Withdrawn:
        numbers = await self.task_stream.numbers(ids)
        await self.task_stream.delete_all(numbers)
        # Asked after the deletion: from then on the tasks are not delivered. A purge would advance the consumer.
        unseen = await self.task_stream.beyond_delivered(numbers)
        return Withdrawn(unseen=unseen, seen=frozenset(numbers) - unseen)

    async def drain(self) -> Withdrawn:
        names = self._names
        return await self.cancel(await self.task_stream.ids_in(names.tasks, names.task_subject(purpose="*", id_=">")))

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        return await self.task_stream.beyond_delivered(await self.task_stream.numbers(ids))

    async def answered(self) -> frozenset[str]:
        names = self._names
        results = await self.task_stream.ids_in(names.results, names.result_subject(kind="*", id_=">"))
        return frozenset(results + await self.task_stream.ids_in(names.dead, names.dead_subject(id_=">")))

    async def results(self) -> AsyncIterator[Received]:
        if self._inbox is None:
            inbox = Inbox()
            names = self._names
            await inbox.listen(self.connection, stream=names.results, read=self._read_result)
            await inbox.listen(self.connection, stream=names.dead, read=self._read_result)
            await inbox.listen(self.connection, stream=names.advisories, read=self._read_advisory)
            self._inbox = inbox
        async for received in self._inbox.messages():
            yield received

    async def _read_result(self, msg: Msg, token: int) -> Received | None:
        """Read a result, whatever was published there. A message without a valid id is logged and dropped."""
        kind, id_ = self._names.result_parts(msg.subject)
        try:
            return Received(token=token, kind=ResultKind(kind), envelope=await self._messages.read(msg))
        except (EnvelopeError, PayloadDamaged, ValueError) as error:
            _log.error("unreadable result %s: %s", msg.subject, error)
            dead = unreadable(id_, reason=f"unreadable {kind} result: {error}", body=msg.data)
            return None if dead is None else Received(token=token, kind=ResultKind.DEAD, envelope=dead)

    async def _read_advisory(self, msg: Msg, token: int) -> Received | None:
        """Read an advisory: a task whose last worker vanished stays in the stream; the server reports its number."""
        number = int(json.loads(msg.data)["stream_seq"])
        try:
            raw = await self.connection.patiently(
                "look up", lambda: self.connection.js.get_msg(self._names.tasks, number)
            )
        except NotFoundError:
            return None
        try:
            task: Envelope | None = without_body(decode(raw.headers, b""), reason=LOST)
        except EnvelopeError:
            task = unreadable((raw.subject or "").split(".", 4)[-1], reason=LOST)
        return None if task is None else Received(token=token, kind=ResultKind.DEAD, envelope=task)

    async def ack(self, received: Received) -> None:
        msg = self._inbox.forget(received.token) if self._inbox is not None else None
        if msg is None:
            return
        if msg.subject.startswith("$JS."):
            number = int(json.loads(msg.data)["stream_seq"])
            await self.connection.patiently("forget", lambda: self.task_stream.delete(number))
        await self._messages.settle(msg)

    async def depth(self) -> Depth:
        tasks = await self.connection.patiently(
            "depth", lambda: self.connection.js.consumer_info(self._names.tasks, WORKERS)
        )
        results = 0
        for stream in (self._names.results, self._names.dead, self._names.advisories):
            results += (
                await self.connection.patiently("depth", partial(self.connection.js.stream_info, stream))
            ).state.messages
        return Depth(
            queued=tasks.num_pending or 0,
            leased=tasks.num_ack_pending or 0,
            results=results,
            redelivered=tasks.num_redelivered or 0,
        )

    # ── shared state ───────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, key: str, value: bytes) -> None:
        await self._state.put(key, value)

    async def get(self, key: str) -> bytes | None:
        return await self._state.get(key)

    async def delete(self, key: str) -> None:
        await self._state.delete(key)

    def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        return self._state.watch(prefix)

    async def close(self) -> None:
        await at_most(_GIVE_BACK_SECONDS, self._give_back())
        await self.connection.close()

    async def _give_back(self) -> None:
        if self._inbox is not None:
            await self._inbox.close()
        if self.connection.client.is_connected:
            await self._tasks.close()

    # ── envelopes on the wire ──────────────────────────────────────────────────────────────────────────────────

    async def _send(self, kind: ResultKind, result: Envelope) -> None:
        names = self._names
        if kind is ResultKind.DEAD:
            subject, stream = names.dead_subject(id_=result.id), names.dead
        else:
            subject, stream = names.result_subject(kind=kind, id_=result.id), names.results
        await self._messages.publish(subject, result, stream=stream, message_id=result.id)
