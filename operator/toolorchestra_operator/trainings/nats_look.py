"""What is asked of NATS while trainings run: are the streams there, what did the controller tell last."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, field

import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError

from toolorchestra.bus.streams import Names, StreamSettings, consumer_configs
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
        """Whether every consumer, and with it its stream, and the bucket are there."""
        names = Names(uid)
        try:
            async with asyncio.timeout(self.timeout):
                js = (await self._client(url)).jetstream(timeout=self.timeout)
                for stream, consumer in consumer_configs(uid, StreamSettings()):
                    await js.consumer_info(stream, consumer.durable_name or "")
                await js.stream_info(f"KV_{names.state}")
                await js.stream_info(f"OBJ_{names.payloads}")
        except NotFoundError:
            return Messaging()
        except (OSError, TimeoutError, nats.errors.Error, APIError) as error:
            return Messaging(error=f"NATS at {_USER_INFO.sub('://', url)}: {error or type(error).__name__}")
        return Messaging(ready=True)

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


async def _noted(error: Exception) -> None:
    """Not the library's way, a traceback per try: what matters becomes a condition."""
    _log.debug("nats: %r", error)
