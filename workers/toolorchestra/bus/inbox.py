"""The controller's received messages without ack: kept alive on the server, returned once, in order of arrival.

Invariant: a message is in the inbox from its first delivery until `forget`. A redelivery only replaces the message to
ack.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from nats.aio.msg import Msg

from toolorchestra.bus.connection import Connection, unswallowed
from toolorchestra.bus.protocol import BusUnavailable, Received
from toolorchestra.bus.pull import Pull
from toolorchestra.bus.streams import CONTROLLER

_log = logging.getLogger(__name__)

Read = Callable[[Msg, int], Awaitable[Received | None]]
"""(message, token) → its content; None: the message is of no use, ack it."""

_BATCH = 64
_EXPIRY = 5.0


class Inbox:
    """An inbox with one pull loop per stream."""

    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._unacked: dict[int, tuple[Received, Msg]] = {}
        self._by_sequence: dict[tuple[str, int], int] = {}
        self._unseen: deque[int] = deque()
        self._changed = asyncio.Event()
        self._pulls: list[Pull] = []
        self._loops: list[asyncio.Task[None]] = []
        self._error: BaseException | None = None
        self._closed = False

    async def listen(self, connection: Connection, *, stream: str, read: Read) -> None:
        """Start to pull from the controller's consumer of `stream`. BusGone: it does not exist."""
        pull = Pull(connection, stream=stream, consumer=CONTROLLER)
        info = await pull.bind()
        self._pulls.append(pull)
        keep = (info.config.ack_wait or 30.0) / 3
        for name, loop in (
            ("pull", self._feed(pull, read)),
            ("keep", self._keep_alive(connection, stream, every=keep)),
        ):
            self._loops.append(asyncio.create_task(loop, name=f"{name} {stream}"))
            self._loops[-1].add_done_callback(self._ended)

    def _ended(self, loop: asyncio.Task[None]) -> None:
        """Keep the error of a loop, so that `messages` raises it."""
        if not loop.cancelled():
            self._error = loop.exception()
            self._changed.set()

    async def _feed(self, pull: Pull, read: Read) -> None:
        while True:
            for msg in await pull.fetch(max_n=_BATCH, expiry=_EXPIRY):
                try:
                    await self._take(msg, read)
                except BusUnavailable as error:
                    _log.warning("%s could not be read; it will be delivered again: %s", msg.subject, error)

    async def _take(self, msg: Msg, read: Read) -> None:
        key = (msg.metadata.stream, msg.metadata.sequence.stream)
        token = self._by_sequence.get(key)
        if token is not None:
            self._unacked[token] = (self._unacked[token][0], msg)
            return
        token = next(self._tokens)
        received = await read(msg, token)
        if received is None:
            await unswallowed(msg.ack())
            return
        self._by_sequence[key] = token
        self._unacked[token] = (received, msg)
        self._unseen.append(token)
        self._changed.set()

    async def _keep_alive(self, connection: Connection, stream: str, *, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            for _, msg in list(self._unacked.values()):
                if msg.metadata.stream == stream and connection.client.is_connected:
                    await unswallowed(msg.in_progress())

    async def messages(self) -> AsyncIterator[Received]:
        """Yield the messages without ack, then new ones. Raises the error that stopped a loop; ends when closed."""
        self._unseen = deque(self._unacked)
        while not self._closed:
            if self._unseen:
                held = self._unacked.get(self._unseen.popleft())
                if held is not None:
                    yield held[0]
            elif self._error is not None:
                raise self._error
            else:
                self._changed.clear()
                await self._changed.wait()

    def forget(self, token: int) -> Msg | None:
        """Remove a message and return it for its ack; None: it has its ack already."""
        held = self._unacked.pop(token, None)
        if held is None:
            return None
        msg = held[1]
        self._by_sequence.pop((msg.metadata.stream, msg.metadata.sequence.stream), None)
        return msg

    async def close(self) -> None:
        """Stop the loops and nak the messages without ack, so that the next controller gets them at once."""
        self._closed = True
        self._changed.set()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for pull in self._pulls:
            await pull.close()
        for _, msg in self._unacked.values():
            await msg.nak()
