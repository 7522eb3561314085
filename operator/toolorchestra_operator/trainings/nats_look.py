"""What is asked of NATS while trainings run: are the streams there, what did the controller tell last."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError

from toolorchestra.bus.streams import WORKERS, Names, StreamSettings, consumer_configs
from toolorchestra_operator.trainings.observed import Messaging

_log = logging.getLogger(__name__)
_USER_INFO = re.compile(r"://[^/\s,@]*@")


@dataclass
class NatsLook:
    """Reads only, over one connection per URL. A server that does not answer is an error in what is seen, never an
    exception."""

    timeout: float = 5.0
    _clients: dict[str, Client] = field(default_factory=dict[str, Client])
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def look(self, url: str, uid: str) -> Messaging:
        """Whether every consumer, and with it its stream, and the buckets are there."""
        try:
            async with asyncio.timeout(self.timeout):
                js = (await self._client(url)).jetstream(timeout=self.timeout)
                leases = await _leases(js, uid)
                there = [await _is_there(question) for question in _questions(js, uid)]
        except (OSError, TimeoutError, nats.errors.Error, APIError) as error:
            return Messaging(error=f"NATS at {_USER_INFO.sub('://', url)}: {error or type(error).__name__}")
        return Messaging(ready=all(there), partial=any(there) and not all(there), leases=leases)

    async def value(self, url: str, uid: str, key: str) -> bytes | None:
        """A key of the training's bucket; None where it was never set, or nobody answers."""
        try:
            async with asyncio.timeout(self.timeout):
                js = (await self._client(url)).jetstream(timeout=self.timeout)
                bucket = await js.key_value(Names(uid).state)
                return (await bucket.get(key)).value
        except (KeyNotFoundError, NotFoundError, OSError, TimeoutError, nats.errors.Error, APIError):
            return None

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            closing = asyncio.ensure_future(client.close())
            await asyncio.wait({closing}, timeout=1.0)
            closing.cancel()
        self._clients.clear()

    async def _client(self, url: str) -> Client:
        async with self._lock:
            client = self._clients.get(url)
            if client is None or client.is_closed:
                client = Client()
                servers = [part.strip() for part in url.split(",")]
                await client.connect(servers, name="toolorchestra-operator", max_reconnect_attempts=-1, error_cb=_noted)
                self._clients[url] = client
            return client


async def _leases(js: JetStreamContext, uid: str) -> int | None:
    try:
        leases: int | None = (await js.consumer_info(Names(uid).tasks, WORKERS)).config.max_ack_pending
    except NotFoundError:
        return None
    return leases


def _questions(js: JetStreamContext, uid: str) -> Iterator[Awaitable[Any]]:
    """One for each consumer, and with it its stream, and for each bucket."""
    names = Names(uid)
    for stream, consumer in consumer_configs(uid, StreamSettings()):
        yield js.consumer_info(stream, consumer.durable_name or "")
    for bucket in (f"KV_{names.state}", f"OBJ_{names.payloads}"):
        yield js.stream_info(bucket)


async def _is_there(question: Awaitable[Any]) -> bool:
    try:
        await question
    except NotFoundError:
        return False
    return True


async def _noted(error: Exception) -> None:
    """Not the library's way, a traceback per try: what matters becomes a condition."""
    _log.debug("nats: %r", error)
