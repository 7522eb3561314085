"""Pulls from a durable JetStream consumer. No delivered message is lost, and a request lost in a restart is detected.

nats-py's own `fetch` waits for a whole batch or its time-out, and cannot tell a deleted consumer from an empty one.
Here a fetch is at most two requests: the messages that are there now (`no_wait`), else one message within the expiry,
with idle heartbeats of the server. https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from toolorchestra.bus.connection import TRANSIENT, Connection, unswallowed
from toolorchestra.bus.protocol import BusGone

_log = logging.getLogger(__name__)

_NO_WAIT_PATIENCE = 2.0
"""Seconds to wait for the answer to a `no_wait` request; then it is taken for lost."""
_HEARTBEAT = 1.0
_NANOSECONDS = 1_000_000_000


class Pull:
    """Pulls from one consumer with one inbox. Not for concurrent use."""

    def __init__(self, connection: Connection, *, stream: str, consumer: str) -> None:
        self._connection, self._stream, self._consumer = connection, stream, consumer
        self._prefix = ""
        self._requests = 0
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._subscription: Any = None

    async def bind(self) -> ConsumerInfo:
        """Check that the consumer exists, and open the inbox. BusGone: it does not exist."""
        info = await self._connection.patiently(f"bind to {self._stream}", self._info)
        client = self._connection.client
        self._prefix = client.new_inbox()
        self._subscription = await client.subscribe(f"{self._prefix}.*", cb=self._on_message, pending_msgs_limit=-1)
        return info

    async def _info(self) -> ConsumerInfo:
        info: ConsumerInfo = await self._connection.js.consumer_info(self._stream, self._consumer)
        return info

    async def _on_message(self, msg: Msg) -> None:
        self._arrived.put_nowait(msg)

    async def fetch(self, *, max_n: int, expiry: float) -> list[Msg]:
        """Return up to `max_n` messages. Wait about `expiry` seconds for the first. BusGone: no such consumer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + expiry
        # While the broker is down, requests would collect in the client, and the broker would serve all of them later.
        if not await self._connection.wait_until_up(expiry):
            return []
        # The server may have served a request that was cancelled or timed out: its messages come first.
        messages = self._leftovers(max_n)
        if not messages:
            messages = await self._request({"batch": max_n, "no_wait": True}, silence=_NO_WAIT_PATIENCE)
        if not messages and (left := deadline - loop.time()) > 0.01:
            ask: dict[str, Any] = {"batch": 1, "expires": int(left * _NANOSECONDS)}
            if left > 2 * _HEARTBEAT:
                ask["idle_heartbeat"] = int(_HEARTBEAT * _NANOSECONDS)
            messages = await self._request(ask, silence=min(left, 2 * _HEARTBEAT) + 0.5)
        return messages

    def _leftovers(self, max_n: int) -> list[Msg]:
        messages: list[Msg] = []
        while len(messages) < max_n and not self._arrived.empty():
            msg = self._arrived.get_nowait()
            if not _status(msg):
                messages.append(msg)
        return messages

    async def _request(self, ask: dict[str, Any], *, silence: float) -> list[Msg]:
        """Send one pull request and return its messages. After `silence` seconds without an answer it is lost."""
        self._requests += 1
        reply = f"{self._prefix}.{self._requests}"
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        messages: list[Msg] = []
        try:
            await unswallowed(self._connection.client.publish(subject, json.dumps(ask).encode(), reply=reply))
            while len(messages) < ask["batch"]:
                async with asyncio.timeout(silence):
                    msg = await self._arrived.get()
                status = _status(msg)
                if not status:
                    messages.append(msg)
                elif msg.subject == reply and await self._ends(status, msg):
                    break
        except TimeoutError:
            if not messages:
                await self._suspect()
        return messages

    async def _ends(self, status: str, msg: Msg) -> bool:
        """Return whether a status ends the request. A heartbeat does not. BusGone: the consumer does not exist."""
        if status == "100":
            return False
        described = (msg.headers or {}).get("Description", "")
        if status == "503" or "Consumer Deleted" in described:
            await self._suspect()
        elif status not in ("404", "408"):
            _log.info("nats: pull from %s ended: %s %s", self._stream, status, described)
        return True

    async def _suspect(self) -> None:
        """Find out why there is no answer: the broker restarts (wait a little), or the stream is gone (BusGone)."""
        connection = self._connection
        if not await connection.wait_until_up(connection.timeouts.request):
            return
        try:
            await unswallowed(connection.js.consumer_info(self._stream, self._consumer))
        except NotFoundError as error:
            raise BusGone(f"{self._stream} or its consumer {self._consumer} no longer exists") from error
        except TRANSIENT as error:
            _log.debug("nats: %s does not answer yet: %r", self._stream, error)
            await asyncio.sleep(connection.timeouts.reconnect_wait)

    async def close(self) -> None:
        """Give back messages that arrived and were not fetched."""
        for msg in self._leftovers(self._arrived.qsize()):
            await msg.nak()
        if self._subscription is not None:
            await self._subscription.unsubscribe()


def _status(msg: Msg) -> str:
    """Return the status of a control message; "" for a delivery."""
    return "" if not msg.headers or msg.data else msg.headers.get("Status", "")
