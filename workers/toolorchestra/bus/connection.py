"""One NATS connection that outlives the broker's restarts: reconnects for ever, and sorts what goes wrong.

Invariant: every failure leaves here as BusUnavailable (did not answer in time; try again later), BusGone (no such
stream) or BusFull (refused by a limit). Anything else is a bug and propagates as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServerError, ServiceUnavailableError

from toolorchestra.bus.protocol import BusFull, BusGone, BusUnavailable

_log = logging.getLogger(__name__)
T = TypeVar("T")

_USER_INFO = re.compile(r"://[^/\s,@]*@")
_STORE_FAILED = 10077
"""JSStreamStoreFailedF: `discard=new` answers with it, and with "maximum messages/bytes exceeded"."""
_NOT_FOUND = (10059, 10014)
"""JSStreamNotFoundErr, JSConsumerNotFoundErr."""

TRANSIENT: tuple[type[Exception], ...] = (
    TimeoutError,
    nats.errors.TimeoutError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.StaleConnectionError,
    NoStreamResponseError,
    ServiceUnavailableError,
    ServerError,
)
"""What passes when the broker (or its JetStream, or a new leader) is back."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds."""

    connect: float = 10.0
    request: float = 5.0
    """One attempt of a publish or a request."""
    deadline: float = 120.0
    """All attempts together, before BusUnavailable."""
    reconnect_wait: float = 0.25
    retry_delay: float = 1.0
    """Before a failed task is delivered again."""


def is_full(error: Exception) -> bool:
    """True for the refusal of a stream at its limit."""
    return isinstance(error, APIError) and error.err_code == _STORE_FAILED and "maximum" in (error.description or "")


class Connection:
    """Made by `Connection.open`; `client` is nats-py's. `epoch` counts reconnects."""

    def __init__(self, client: Client, *, url: str, timeouts: Timeouts) -> None:
        self.client, self.timeouts = client, timeouts
        self.url = _USER_INFO.sub("://", url)
        """For messages: without a user, a password or a token."""
        self.js = client.jetstream(timeout=timeouts.request)
        self.epoch = 0
        self._up = asyncio.Event()
        self._up.set()

    @classmethod
    async def open(cls, url: str, *, name: str, timeouts: Timeouts) -> Connection:
        """Connect to `url` (or several, with commas); BusUnavailable: nothing answers within `timeouts.connect`."""
        client = Client()
        connection = cls(client, url=url, timeouts=timeouts)

        async def reconnected() -> None:
            connection.epoch += 1
            connection._up.set()
            _log.info("nats: reconnected to %s", connection.url)

        async def disconnected() -> None:
            connection._up.clear()
            if not client.is_closed:
                _log.warning("nats: lost the connection to %s; reconnecting", connection.url)

        async def closed() -> None:
            connection._up.set()

        async def failed(error: Exception) -> None:
            _log.debug("nats: %r", error)

        try:
            async with asyncio.timeout(timeouts.connect):
                await client.connect(
                    [part.strip() for part in url.split(",")],
                    name=name,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=timeouts.reconnect_wait,  # type: ignore[arg-type]
                    ping_interval=10,
                    reconnected_cb=reconnected,
                    disconnected_cb=disconnected,
                    closed_cb=closed,
                    error_cb=failed,
                )
        except (OSError, TimeoutError, nats.errors.Error) as error:
            with contextlib.suppress(Exception):
                await client.close()
            raise BusUnavailable(
                f"no NATS server answers at {connection.url} ({error or type(error).__name__})"
            ) from error
        return connection

    async def wait_until_up(self, limit: float) -> bool:
        """True: connected; False: not within `limit` seconds. BusUnavailable: closed for good."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._up.wait()
        if self.client.is_closed:
            raise BusUnavailable(f"the connection to {self.url} is closed")
        return self._up.is_set()

    async def patiently(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, the deadline passes, or trying again is pointless. Raises as the module says."""
        give_up = asyncio.get_running_loop().time() + self.timeouts.deadline
        pause = self.timeouts.reconnect_wait
        while True:
            try:
                return await attempt()
            except TRANSIENT as error:
                if is_full(error):
                    raise BusFull(f"{what}: {error}") from error
                if self.client.is_closed or asyncio.get_running_loop().time() + pause > give_up:
                    raise BusUnavailable(f"{what}: {self.url} did not answer in time ({error!r})") from error
            except NotFoundError as error:
                if getattr(error, "err_code", None) in _NOT_FOUND:  # a missing key has none
                    raise BusGone(f"{what}: the training's streams do not exist at {self.url}") from error
                raise
            except nats.errors.ConnectionClosedError as error:
                raise BusUnavailable(f"{what}: the connection to {self.url} is closed") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def close(self) -> None:
        """Send what is buffered, if the broker is there, and disconnect."""
        if self.client.is_closed:
            return
        if self.client.is_connected:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await self.client.flush(timeout=2)
        # Closing drains a socket that may be broken already.
        with contextlib.suppress(OSError):
            await self.client.close()
