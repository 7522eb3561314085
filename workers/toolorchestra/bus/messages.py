"""Stores, reads and acknowledges envelopes as JetStream messages. A large body is stored separately.

A large body belongs to the message that names it. It is removed with that message, or by its sender if it is certain
that no message on the server names it. The answer `duplicate` is not enough: the server also gives it when a publish is
repeated after a lost acknowledgement, and then the stored message is our own.
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
    """The messages of one connection. `payloads`: the bucket of bodies with more than `inline_bytes` bytes."""

    def __init__(self, connection: Connection, *, payloads: str, inline_bytes: int = INLINE_BYTES) -> None:
        self._connection, self._inline_bytes = connection, inline_bytes
        self._payloads = Payloads(connection, name=payloads)
        self.refused: set[str] = set()
        """Message ids with a refused publish and no accepted one since. The caller removes ids after use."""

    async def publish(self, subject: str, envelope: Envelope, *, stream: str, message_id: str) -> PubAck:
        """Store a message, its large body first. If the server certainly refused the message, the body is removed."""
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
            except Exception as error:  # after any error but a refusal the server may have stored the message
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
        """Return whether the message stored instead of ours names this body. If this is not known: True."""
        if not sequence:  # the server is still processing the stored message
            return True
        try:
            stands = await self._connection.patiently("look up", lambda: self._connection.js.get_msg(stream, sequence))
        except NotFoundError:  # it was read and acknowledged, and its reader removed its body
            return False
        except BusError:
            return True
        return (stands.headers or {}).get(PAYLOAD_HEADER) == payload

    async def _drop_body(self, payload: str) -> None:
        with contextlib.suppress(*TRANSIENT, ConnectionClosedError):
            await self._payloads.remove(payload)

    async def read(self, msg: Msg) -> Envelope:
        """Return the envelope, with its body from the message or from the bucket."""
        headers = msg.headers or {}
        envelope = decode(headers, msg.data)
        if (payload := headers.get(PAYLOAD_HEADER)) is not None:
            body = await self._connection.patiently("read a body", lambda: self._payloads.fetch(payload))
            envelope = replace(envelope, body=body)
        return envelope

    async def settle(self, msg: Msg) -> bool:
        """Ack a message and wait for the server's confirmation; return whether it came.

        Without it the message may be delivered again, which is harmless because of the ids. A server that was killed
        may have lost the delivery, and then never confirms the ack.
        """
        payload = (msg.headers or {}).get(PAYLOAD_HEADER)
        try:
            async with asyncio.timeout(2 * self._connection.timeouts.request):
                await self._connection.patiently("ack", lambda: msg.ack_sync(timeout=self._connection.timeouts.request))
                if payload:
                    await self._payloads.remove(payload)
        except _UNSETTLED as error:
            _log.warning(
                "%s is done, but its message may be delivered again: %s", msg.subject, error or type(error).__name__
            )
            return False
        return True
