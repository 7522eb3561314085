"""RolloutBus on NATS JetStream: the one place where the bus's promises meet nats-py.

How the promises are kept:

- A result is published with its id and its PubAck awaited before the task is acked; a crash in between leads to a
  second result, which the stream's duplicate window collapses or the journal recognises.
- A refused task was not taken. A server may remember the id of a publish that it refused, and then answer its
  repetition with `duplicate`; after a refusal such an answer is believed only where the task is really there. (After a
  lost acknowledgement it is believed: the task may have been played and settled by then, and must not be played twice.)
- A large body belongs to the message that names it. It is removed with that message, or by its sender where the server
  surely holds no message that names it: `duplicate` is also what the repetition of a publish is told whose
  acknowledgement was lost, and then the message that stands is our own.
- The server redelivers to this very process when its loop hung: the lease or result that is held already is kept, with
  the newer delivery's ack.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from uuid import uuid4

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.js.api import Header, PubAck
from nats.js.errors import APIError, NotFoundError

from toolorchestra.bus.connection import TRANSIENT, Connection, Timeouts, at_most, is_full
from toolorchestra.bus.envelope import Envelope, EnvelopeError, decode, encode, unreadable, without_body
from toolorchestra.bus.inbox import Inbox
from toolorchestra.bus.payloads import INLINE_BYTES, PAYLOAD_HEADER, PayloadDamaged, Payloads
from toolorchestra.bus.protocol import (
    HANDED_BACK,
    LOST,
    BusError,
    BusFull,
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
from toolorchestra.bus.streams import WORKERS, Names
from toolorchestra.telemetry.propagation import inject

_log = logging.getLogger(__name__)

_GIVE_BACK_SECONDS = 1.0
"""What is not given back in this time comes again by itself, after its ack_wait."""
_NO_MESSAGE = frozenset({10043, 10057})
"""What the server says of a message that is not there: JSSequenceNotFoundErrF (status 400: it went between look and
deletion), JSStreamMsgDeleteFailedF (500: there is none of that number)."""
_AT_ONCE = 64
"""Requests under way where there is one for every id."""
_UNSETTLED: tuple[type[Exception], ...] = (BusError, PayloadDamaged, NotFoundError, *TRANSIENT)


class NatsBus:
    """See `RolloutBus`. Made by `NatsBus.connect`."""

    def __init__(self, connection: Connection, *, uid: str) -> None:
        self._connection, self._names, self._js = connection, Names(uid), connection.js
        self._payloads = Payloads(connection, name=self._names.payloads)
        self._state = State(connection, name=self._names.state)
        self._tasks = Pull(connection, stream=self._names.tasks, consumer=WORKERS)
        self._max_deliver, self.ack_wait = 0, 0.0
        self._leased: dict[int, Msg] = {}
        self._unacked: set[int] = set()
        """Tasks that are answered, but whose ack a restarted server did not understand: acked when they come again."""
        self._refused: set[str] = set()
        """Message ids of which an attempt was refused, and no later one taken."""
        self._inbox: Inbox | None = None

    @classmethod
    async def connect(cls, url: str, *, uid: str, name: str = "", timeouts: Timeouts | None = None) -> NatsBus:
        """Connect and bind. BusUnavailable: nothing answers at `url`; BusGone: nobody has made the streams of `uid`."""
        connection = await Connection.open(url, name=name or f"toolorchestra-{uid}", timeouts=timeouts or Timeouts())
        async with AsyncExitStack() as unbound:
            unbound.push_async_callback(connection.close)
            bus = cls(connection, uid=uid)
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
            if await self._settle(msg):
                self._unacked.discard(token)
            return None
        if token in self._leased:
            _log.warning("%s was delivered again while it is worked on here: heartbeats came too late", msg.subject)
            self._leased[token] = msg
            return None
        try:
            envelope = await self._read(msg)
        except (EnvelopeError, PayloadDamaged) as error:
            await self._bury(msg, str(error))
            return None
        except BusUnavailable as error:
            _log.warning("%s could not be read; it will be delivered again: %s", msg.subject, error)
            return None
        self._leased[token] = msg
        return Lease(token=token, envelope=envelope, delivery=delivery, last=delivery >= self._max_deliver)

    async def _bury(self, msg: Msg, reason: str) -> None:
        """A task that no worker can read is dead at once; its id is the subject's tail."""
        purpose, _, id_ = msg.subject.removeprefix(self._names.task_subject(purpose="", id_="")[:-1]).partition(".")
        _log.error("unreadable task %s: %s", id_, reason)
        if (dead := unreadable(id_, purpose=purpose, reason=reason)) is not None:
            await self._send(ResultKind.DEAD, dead)
        await self._settle(msg)

    async def heartbeat(self, lease: Lease) -> None:
        msg = self._leased.get(lease.token)
        # While the broker is away its redelivery clock does not run, and buffered heartbeats would be worthless.
        if msg is not None and await self._connection.wait_until_up(0):
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
        if (msg := self._leased.pop(lease.token, None)) is not None and not await self._settle(msg):
            self._unacked.add(lease.token)

    async def _settle(self, msg: Msg) -> bool:
        """Ack and wait for the server's word; without it the message comes again, which the ids make harmless.

        A server that was killed may have forgotten the delivery, and never answers its ack.
        """
        payload = (msg.headers or {}).get(PAYLOAD_HEADER)
        try:
            async with asyncio.timeout(2 * self._connection.timeouts.request):
                await self._connection.patiently("ack", lambda: msg.ack_sync(timeout=self._connection.timeouts.request))
                if payload:
                    await self._payloads.remove(payload)
        except _UNSETTLED as error:
            _log.warning("%s is done, but its message may come again: %s", msg.subject, error or type(error).__name__)
            return False
        return True

    # ── controller ─────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, task: Envelope) -> None:
        names = self._names
        subject = names.task_subject(purpose=task.purpose, id_=task.id)
        ack = await self._publish(subject, task, stream=names.tasks, message_id=task.id)
        if ack.duplicate and task.id in self._refused and not await self._is_queued(subject):
            _log.info("%s: the server remembers a publish that it refused; sent under another message id", task.id)
            await self._publish(subject, task, stream=names.tasks, message_id=f"{task.id}~{uuid4().hex[:8]}")
        self._refused.discard(task.id)

    async def _is_queued(self, subject: str) -> bool:
        try:
            await self._connection.patiently("look up", lambda: self._js.get_last_msg(self._names.tasks, subject))
        except NotFoundError:
            return False
        return True

    async def cancel(self, ids: Iterable[str]) -> Withdrawn:
        numbers = await self._numbers(ids)

        async def delete(id_: str) -> None:
            await self._connection.patiently("take back", lambda: self._delete(numbers[id_]))

        await self._each(delete, numbers)
        # Asked afterwards, since when nothing of it is delivered. A purge instead would move the consumer on.
        unseen = await self._beyond_delivered(numbers)
        return Withdrawn(unseen=unseen, seen=frozenset(numbers) - unseen)

    async def drain(self) -> Withdrawn:
        names = self._names
        return await self.cancel(await self._ids_in(names.tasks, names.task_subject(purpose="*", id_=">")))

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        return await self._beyond_delivered(await self._numbers(ids))

    async def answered(self) -> frozenset[str]:
        names = self._names
        results = await self._ids_in(names.results, names.result_subject(kind="*", id_=">"))
        return frozenset(results + await self._ids_in(names.dead, names.dead_subject(id_=">")))

    async def _numbers(self, ids: Iterable[str]) -> dict[str, int]:
        """Stream sequences of the tasks that are there."""
        found: dict[str, int] = {}

        async def look(id_: str) -> None:
            subject = self._names.task_subject(purpose="*", id_=id_)
            with contextlib.suppress(NotFoundError):
                raw = await self._connection.patiently(
                    "look up", lambda: self._js.get_last_msg(self._names.tasks, subject)
                )
                found[id_] = raw.seq or 0

        await self._each(look, ids)
        return found

    async def _beyond_delivered(self, numbers: dict[str, int]) -> frozenset[str]:
        """A stream is delivered in the order of its sequence: what is beyond the last one, nobody has had."""
        if not numbers:
            return frozenset()
        info = await self._connection.patiently("look up", lambda: self._js.consumer_info(self._names.tasks, WORKERS))
        delivered = info.delivered.stream_seq if info.delivered is not None else 0
        return frozenset(id_ for id_, number in numbers.items() if number > delivered)

    async def _ids_in(self, stream: str, subjects: str) -> list[str]:
        """Ids of all messages of a stream: what the wildcard `>` at the end of `subjects` stands for."""
        ask = partial(self._js.stream_info, stream, subjects_filter=subjects)
        info = await self._connection.patiently("look up", ask)
        tokens = subjects.count(".")
        return [subject.split(".", tokens)[tokens] for subject in info.state.subjects or {}]

    async def _delete(self, number: int) -> None:
        """Delete a task; one that is gone is."""
        try:
            await self._js.delete_msg(self._names.tasks, number)
        except APIError as error:
            if error.err_code not in _NO_MESSAGE:
                raise

    async def _each(self, work: Callable[[str], Awaitable[None]], ids: Iterable[str]) -> None:
        """Do it for every id, some at a time."""
        left = list(ids)
        for start in range(0, len(left), _AT_ONCE):
            await asyncio.gather(*(work(id_) for id_ in left[start : start + _AT_ONCE]))

    async def results(self) -> AsyncIterator[Received]:
        if self._inbox is None:
            inbox = Inbox()
            names = self._names
            await inbox.listen(self._connection, stream=names.results, read=self._read_result)
            await inbox.listen(self._connection, stream=names.dead, read=self._read_result)
            await inbox.listen(self._connection, stream=names.advisories, read=self._read_advisory)
            self._inbox = inbox
        async for received in self._inbox.messages():
            yield received

    async def _read_result(self, msg: Msg, token: int) -> Received | None:
        """Whatever was published there: a message without so much as an id is told to the log and forgotten."""
        kind, id_ = self._names.result_parts(msg.subject)
        try:
            return Received(token=token, kind=ResultKind(kind), envelope=await self._read(msg))
        except (EnvelopeError, PayloadDamaged, ValueError) as error:
            _log.error("unreadable result %s: %s", msg.subject, error)
            dead = unreadable(id_, reason=f"unreadable {kind} result: {error}", body=msg.data)
            return None if dead is None else Received(token=token, kind=ResultKind.DEAD, envelope=dead)

    async def _read_advisory(self, msg: Msg, token: int) -> Received | None:
        """The backstop: a task whose last worker vanished stays in the stream, and the server says its number."""
        number = int(json.loads(msg.data)["stream_seq"])
        try:
            raw = await self._connection.patiently("look up", lambda: self._js.get_msg(self._names.tasks, number))
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
            await self._connection.patiently("forget", lambda: self._delete(number))
        await self._settle(msg)

    async def depth(self) -> Depth:
        tasks = await self._connection.patiently("depth", lambda: self._js.consumer_info(self._names.tasks, WORKERS))
        results = 0
        for stream in (self._names.results, self._names.dead, self._names.advisories):
            results += (await self._connection.patiently("depth", partial(self._js.stream_info, stream))).state.messages
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
        await self._connection.close()

    async def _give_back(self) -> None:
        if self._inbox is not None:
            await self._inbox.close()
        if self._connection.client.is_connected:
            await self._tasks.close()

    # ── envelopes on the wire ──────────────────────────────────────────────────────────────────────────────────

    async def _send(self, kind: ResultKind, result: Envelope) -> None:
        names = self._names
        if kind is ResultKind.DEAD:
            subject, stream = names.dead_subject(id_=result.id), names.dead
        else:
            subject, stream = names.result_subject(kind=kind, id_=result.id), names.results
        await self._publish(subject, result, stream=stream, message_id=result.id)

    async def _publish(self, subject: str, envelope: Envelope, *, stream: str, message_id: str) -> PubAck:
        """Store a message, its large body first. What the server surely did not take leaves no body behind."""
        headers, body = encode(replace(envelope, headers=inject(envelope.headers)))
        headers[Header.MSG_ID.value] = message_id
        payload = ""
        if len(body) > INLINE_BYTES:
            large = body
            payload = await self._connection.patiently("store a body", lambda: self._payloads.stow(envelope.id, large))
            headers[PAYLOAD_HEADER], body = payload, b""
        unknown = False

        async def attempt() -> PubAck:
            nonlocal unknown
            try:
                return await self._js.publish(subject, body, stream=stream, headers=dict(headers))
            except Exception as error:  # whatever it was but a refusal, the server may have stored the message
                if is_full(error):
                    self._refused.add(message_id)
                else:
                    unknown = True
                raise

        try:
            ack = await self._connection.patiently(f"publish {subject}", attempt)
        except BusFull:
            if payload and not unknown:
                await self._drop_body(payload)
            raise
        if payload and ack.duplicate and not await self._is_named(payload, stream=stream, sequence=ack.seq):
            await self._drop_body(payload)
        return ack

    async def _is_named(self, payload: str, *, stream: str, sequence: int | None) -> bool:
        """Does the message that stands in place of ours name this body? Where nobody can say: yes."""
        if not sequence:  # the server is still busy with the message that stands
            return True
        try:
            stands = await self._connection.patiently("look up", lambda: self._js.get_msg(stream, sequence))
        except NotFoundError:  # it was read and acknowledged: whoever did that removed the body that it named
            return False
        except BusError:
            return True
        return (stands.headers or {}).get(PAYLOAD_HEADER) == payload

    async def _drop_body(self, payload: str) -> None:
        with contextlib.suppress(*TRANSIENT, ConnectionClosedError):
            await self._payloads.remove(payload)

    async def _read(self, msg: Msg) -> Envelope:
        headers = msg.headers or {}
        envelope = decode(headers, msg.data)
        if (payload := headers.get(PAYLOAD_HEADER)) is not None:
            body = await self._connection.patiently("read a body", lambda: self._payloads.fetch(payload))
            envelope = replace(envelope, body=body)
        return envelope
