"""Envelopes as messages of JetStream: stored, read and acknowledged. A large body is stored apart.

A large body belongs to the message that names it. It is removed with that message, or by its sender where the server
surely holds no message that names it: `duplicate` is also what the repetition of a publish is told whose
acknowledgement was lost, and then the message that stands is our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError
from nats.js.api import Header, PubAck
from nats.js.errors import NotFoundError

from toolorchestra.bus.connection import TRANSIENT, Connection, is_full
from toolorchestra.bus.envelope import Envelope, decode, encode
from toolorchestra.bus.errors import BusError
from toolorchestra.bus.payloads import INLINE_BYTES, PAYLOAD_HEADER, PayloadDamaged, Payloads
from toolorchestra.bus.protocol import BusFull
from toolorchestra.telemetry.propagation import inject

_log = logging.getLogger(__name__)

_UNSETTLED: tuple[type[Exception], ...] = (BusError, PayloadDamaged, NotFoundError, *TRANSIENT)


class Messages:
    """Of one connection. `payloads` names the store of the bodies that have more than `inline_bytes` bytes."""

    def __init__(self, connection: Connection, *, payloads: str, inline_bytes: int = INLINE_BYTES) -> None:
        self._connection, self._inline_bytes = connection, inline_bytes
        self._payloads = Payloads(connection, name=payloads)
        self.refused: set[str] = set()
        """Message ids of which an attempt was refused, and no later one taken: whoever asks takes them out."""

    async def publish(self, subject: str, envelope: Envelope, *, stream: str, message_id: str) -> PubAck:
        """Store a message, its large body first. What the server surely did not take leaves no body behind."""
        headers, body = encode(replace(envelope, headers=inject(envelope.headers)))
        headers[Header.MSG_ID.value] = message_id
        payload = ""
        if len(body) > self._inline_bytes:
            large = body
            payload = await self._connection.patiently("store a body", lambda: self._payloads.stow(envelope.id, large))
            headers[PAYLOAD_HEADER], body = payload, b""
        unknown = False

        async def attempt() -> PubAck:
            nonlocal unknown
            try:
                return await self._connection.js.publish(subject, body, stream=stream, headers=dict(headers))
            except Exception as error:  # whatever it was but a refusal, the server may have stored the message
                if is_full(error):
                    self.refused.add(message_id)
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
            stands = await self._connection.patiently("look up", lambda: self._connection.js.get_msg(stream, sequence))
        except NotFoundError:  # it was read and acknowledged: whoever did that removed the body that it named
            return False
        except BusError:
            return True
        return (stands.headers or {}).get(PAYLOAD_HEADER) == payload

    async def _drop_body(self, payload: str) -> None:
        with contextlib.suppress(*TRANSIENT, ConnectionClosedError):
            await self._payloads.remove(payload)

    async def read(self, msg: Msg) -> Envelope:
        """The envelope, with its body from wherever it is."""
        headers = msg.headers or {}
        envelope = decode(headers, msg.data)
        if (payload := headers.get(PAYLOAD_HEADER)) is not None:
            body = await self._connection.patiently("read a body", lambda: self._payloads.fetch(payload))
            envelope = replace(envelope, body=body)
        return envelope

    async def settle(self, msg: Msg) -> bool:
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
