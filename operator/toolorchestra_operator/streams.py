"""A training's streams on a NATS server: one short connection per action, bounded in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError

from toolorchestra.bus.streams import StreamSettings, make_streams, remove_streams

_log = logging.getLogger(__name__)
_USER_INFO = re.compile(r"://[^/\s,@]*@")


class MessagingUnreachable(Exception):
    """Streams cannot be made or removed. The message names the server, without credentials, and what it said."""


class StreamsPort(Protocol):
    """Where streams are made and removed; both may be repeated."""

    async def make(self, *, url: str, uid: str, settings: StreamSettings) -> None: ...

    async def remove(self, *, url: str, uid: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class NatsStreams:
    """The real one. `options`: nats-py's for a connection (user, password, token, user_credentials, tls). Seconds."""

    options: Mapping[str, Any] = field(default_factory=dict)
    connect_timeout: float = 5.0
    timeout: float = 20.0
    """For one action as a whole."""

    async def make(self, *, url: str, uid: str, settings: StreamSettings) -> None:
        """Create what is missing, update what differs. MessagingUnreachable: not done, or not known to be."""
        async with self._jetstream(url) as js:
            await make_streams(js, uid=uid, settings=settings)

    async def remove(self, *, url: str, uid: str) -> None:
        """Delete all of them. MessagingUnreachable: not done, or not known to be."""
        async with self._jetstream(url) as js:
            await remove_streams(js, uid=uid)

    async def metadata(self, *, url: str) -> dict[str, Mapping[str, str]]:
        """The metadata of every stream on the server, by the stream's name. MessagingUnreachable: nobody answers."""
        found: dict[str, Mapping[str, str]] = {}
        async with self._jetstream(url) as js:
            while page := await js.streams_info(offset=len(found)):
                before = len(found)
                found |= {info.config.name or "": info.config.metadata or {} for info in page}
                if len(found) == before:
                    break  # streams went while they were listed: the rest comes next time
        return found

    @contextlib.asynccontextmanager
    async def _jetstream(self, url: str) -> AsyncIterator[JetStreamContext]:
        client = Client()
        servers = [part.strip() for part in url.split(",")]
        shown = _USER_INFO.sub("://", url)
        try:
            async with asyncio.timeout(self.timeout):
                await client.connect(
                    servers,
                    name="toolorchestra-operator",
                    connect_timeout=self.connect_timeout,  # type: ignore[arg-type]
                    allow_reconnect=len(servers) > 1,  # otherwise only the first would be tried
                    max_reconnect_attempts=1,
                    error_cb=_noted,
                    **self.options,
                )
                yield client.jetstream(timeout=self.timeout)
        except (OSError, TimeoutError, nats.errors.Error, APIError) as error:
            raise MessagingUnreachable(f"NATS at {shown}: {_said(error)}") from error
        finally:
            closing = asyncio.ensure_future(client.close())
            await asyncio.wait({closing}, timeout=1.0)
            closing.cancel()


async def _noted(error: Exception) -> None:
    _log.debug("nats: %r", error)


def _said(error: Exception) -> str:
    """The server's words, or what is known instead."""
    if isinstance(error, APIError):
        return f"{error.description} (code {error.err_code})"
    text = str(error).removeprefix("nats: ")
    return _USER_INFO.sub("://", text) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))
