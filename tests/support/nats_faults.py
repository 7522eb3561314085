"""A nats-server that is killed, and a look past the bus into its streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import nats
from nats.js import JetStreamContext

from toolorchestra.local.nats_server import NatsServer


async def kill(server: NatsServer) -> None:
    """kill -9, and wait until the supervisor has it up again."""
    starts = server.restarts
    os.kill(server.pid, signal.SIGKILL)
    async with asyncio.timeout(15):
        await server.restarted(after=starts)


@contextlib.asynccontextmanager
async def raw(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(server.url)
    yield client.jetstream()
    await client.close()
