"""A training's bus, real or in memory, and what tests do with one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import nats

from toolorchestra.bus.connection import Timeouts
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import Lease, Received, RolloutBus
from toolorchestra.bus.streams import StreamSettings, make_streams
from toolorchestra.local.nats_server import NatsServer

QUICK = Timeouts(connect=5, request=1, deadline=20, reconnect_wait=0.05)
T = TypeVar("T")
_UIDS = itertools.count()


@dataclass
class Rig:
    """A way to make one more connection to one training's bus (the memory bus has only itself)."""

    connect: Callable[[], Awaitable[RolloutBus]]
    server: NatsServer | None = None
    uid: str = ""
    opened: list[RolloutBus] = field(default_factory=list)

    async def bus(self) -> RolloutBus:
        bus = await self.connect()
        self.opened.append(bus)
        return bus


Make = Callable[..., Awaitable[Rig]]


async def nats_rig(url: str, settings: StreamSettings, server: NatsServer | None = None) -> Rig:
    """The streams of a fresh training on a running server."""
    uid = f"t{next(_UIDS)}"
    client = await nats.connect(url)
    await make_streams(client.jetstream(), uid=uid, settings=settings)
    await client.close()

    async def connect() -> RolloutBus:
        return await NatsBus.connect(url, uid=uid, timeouts=QUICK)

    return Rig(connect=connect, server=server, uid=uid)


def task(n: int, body: bytes = b"order", purpose: str = "train") -> Envelope:
    return Envelope(id=f"u.{n}.0.0.0", body=body, purpose=purpose, content="order/1")


def result(lease: Lease, body: bytes = b"trace", reason: str = "") -> Envelope:
    return Envelope(id=lease.envelope.id, body=body, content="trace/1", reason=reason)


async def take(bus: RolloutBus, n: int = 1) -> list[Lease]:
    """Exactly `n` leases, however many calls they take."""
    leases: list[Lease] = []
    async with asyncio.timeout(10):
        while len(leases) < n:
            leases += await bus.lease(max_n=n - len(leases), expiry=2)
    return leases


async def collect(results: AsyncIterator[Received], n: int) -> list[Received]:
    async with asyncio.timeout(10):
        return [await anext(results) for _ in range(n)]


async def eventually(ask: Callable[[], Awaitable[T]], holds: Callable[[T], bool]) -> T:
    """Ask a server until what it says holds: it has no event for that."""
    async with asyncio.timeout(10):
        while not holds(answer := await ask()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return answer
