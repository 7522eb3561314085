"""Streams made and removed on a real NATS server, and what is said where there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from toolorchestra.bus.streams import StreamSettings
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.streams import MessagingUnreachable, NatsStreams
from toolorchestra_operator.trainings.nats_look import NatsLook
from toolorchestra_operator.trainings.observed import Messaging


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(directory=tmp_path / "nats") as running:
        yield running


async def names(url: str) -> set[str]:
    client = await nats.connect(url)
    try:
        return {info.config.name or "" for info in await client.jetstream().streams_info()}
    finally:
        await client.close()


async def test_made_twice_and_removed_twice(server: NatsServer) -> None:
    streams = NatsStreams()
    for _ in range(2):
        await streams.make(url=server.url, uid="u1", settings=StreamSettings())
    assert {"TO_u1_TASKS", "TO_u1_RESULTS", "KV_TO_u1_STATE"} <= await names(server.url)
    await streams.make(url=server.url, uid="u2", settings=StreamSettings())
    for _ in range(2):
        await streams.remove(url=server.url, uid="u1")
    left = await names(server.url)
    assert left
    assert all("u2" in name for name in left)


async def test_a_look_tells_what_is_there_and_how_many_tasks_may_be_held(server: NatsServer) -> None:
    streams, look = NatsStreams(), NatsLook()
    assert await look.look(server.url, "u1") == Messaging()
    for leases in (40, 400, 20):
        await streams.make(url=server.url, uid="u1", settings=StreamSettings(max_ack_pending=leases))
        assert await look.look(server.url, "u1") == Messaging(ready=True, leases=leases)
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream("TO_u1_DEAD")
    await client.close()
    assert await look.look(server.url, "u1") == Messaging(partial=True, leases=20)
    await look.close()


async def test_the_servers_refusal_in_its_words(server: NatsServer) -> None:
    with pytest.raises(MessagingUnreachable, match="replicas > 1 not supported"):
        await NatsStreams().make(url=server.url, uid="u1", settings=StreamSettings(replicas=3))


async def test_nobody_listens_and_no_credentials_are_told() -> None:
    url = "nats://someone:secret@127.0.0.1:1,nats://someone:secret@127.0.0.1:2"
    with pytest.raises(MessagingUnreachable) as told:
        await NatsStreams(connect_timeout=1.0, timeout=5.0).remove(url=url, uid="u1")
    assert "secret" not in str(told.value)
    assert "127.0.0.1:1" in str(told.value)


async def test_a_server_that_says_nothing_ends_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    started = time.monotonic()
    with pytest.raises(MessagingUnreachable, match=r"NATS at nats://127\.0\.0\.1"):
        await NatsStreams(connect_timeout=1.0, timeout=1.5).make(
            url=f"nats://127.0.0.1:{port}", uid="u1", settings=StreamSettings()
        )
    assert time.monotonic() - started < 10
    listening.close()
