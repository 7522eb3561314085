"""One NATS connection that survives restarts of the broker: it reconnects without limit and classifies errors.

Invariant: every failure is raised as BusUnavailable (no answer in time; try again later), BusGone (no such stream) or
BusFull (refused by a limit). Any other exception is a bug and is raised unchanged. A cancellation is passed on, and
closing ends within seconds, whatever the state of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServerError, ServiceUnavailableError

from toolorchestra.bus.errors import BusError
from toolorchestra.bus.nats_url import servers, shown
from toolorchestra.bus.protocol import BusFull, BusGone, BusUnavailable

_log = logging.getLogger(__name__)
T = TypeVar("T")

_STORE_FAILED = 10077
"""JSStreamStoreFailedF: the error of `discard=new`, with the text "maximum messages/bytes exceeded"."""
_NOT_FOUND = (10059, 10014)
"""JSStreamNotFoundErr, JSConsumerNotFoundErr."""
_CLOSE_SECONDS = 0.5
"""Limit of each of the two steps of closing. A broker that works needs milliseconds; one that hangs never answers."""

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
"""Errors that go away when the broker (or its JetStream, or a new leader) is back."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Time-outs in seconds."""

    connect: float = 10.0
    request: float = 5.0
    """Limit of one attempt of a publish or a request."""
    deadline: float = 120.0
    """Limit of all attempts together; then BusUnavailable."""
    reconnect_wait: float = 0.25


def is_full(error: Exception) -> bool:
    """Return whether the error is the refusal of a stream at its limit."""
    return isinstance(error, APIError) and error.err_code == _STORE_FAILED and "maximum" in (error.description or "")


async def unswallowed(work: Awaitable[T]) -> T:
    """Await a call of nats-py so that a cancellation during the call also ends the caller.

    nats-py loses cancellations. Every request uses `asyncio.wait_for`, which (until Python 3.12) drops a cancellation
    that arrives together with the answer; its flush drops every cancellation. A loop around such a call would never
    end.
    """
    task = asyncio.current_task()
    asked = task.cancelling() if task is not None else 0
    try:
        return await work
    finally:
        if task is not None and task.cancelling() > asked:
            raise asyncio.CancelledError


async def at_most(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Await a step of closing. If it does not end in time, cancel it and go on. The broker's errors are ignored."""
    task = asyncio.create_task(work)
    task.add_done_callback(_noted)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()


def _noted(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        known = isinstance(error, (BusError, nats.errors.Error, OSError))
        _log.log(logging.DEBUG if known else logging.ERROR, "nats: while closing: %r", error)


class Connection:
    """A connection, made by `Connection.open`. `client`: the client of nats-py; `epoch`: number of reconnects."""

    def __init__(self, client: Client, *, url: str, timeouts: Timeouts) -> None:
        self.client, self.timeouts = client, timeouts
        self.url = shown(url)
        """The URL for messages, without user, password or token."""
        self.js = client.jetstream(timeout=timeouts.request)
        self.epoch = 0
        self._up = asyncio.Event()
        self._up.set()

    @classmethod
    async def open(cls, url: str, *, name: str, timeouts: Timeouts) -> Connection:
        """Connect to `url` (or several URLs with commas). BusUnavailable: no answer within `timeouts.connect`."""
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
                    servers(url),
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
        """Wait at most `limit` seconds for a connection; return whether there is one. BusUnavailable: it is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._up.wait()
        if self.client.is_closed:
            raise BusUnavailable(f"the connection to {self.url} is closed")
        return self._up.is_set()

    async def patiently(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat `attempt` until it works, the deadline passes, or an error is permanent. Raises as the module says."""
        give_up = asyncio.get_running_loop().time() + self.timeouts.deadline
        pause = self.timeouts.reconnect_wait
        while True:
            try:
                return await unswallowed(attempt())
            except TRANSIENT as error:
                if is_full(error):
                    raise BusFull(f"{what}: {error}") from error
                if self.client.is_closed or asyncio.get_running_loop().time() + pause > give_up:
                    raise BusUnavailable(f"{what}: {self.url} did not answer in time ({error!r})") from error
            except NotFoundError as error:
                if getattr(error, "err_code", None) in _NOT_FOUND:  # a missing key has no error code
                    raise BusGone(f"{what}: the training's streams do not exist at {self.url}") from error
                raise
            except nats.errors.ConnectionClosedError as error:
                raise BusUnavailable(f"{what}: the connection to {self.url} is closed") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def close(self) -> None:
        """Send buffered data, if the broker is connected, and disconnect."""
        if self.client.is_closed:
            return
        if self.client.is_connected:
            await at_most(_CLOSE_SECONDS, self.client.flush())
        # nats-py writes the remaining data and waits for the socket. The socket of a stopped broker never takes it.
        await at_most(_CLOSE_SECONDS, self.client.close())
