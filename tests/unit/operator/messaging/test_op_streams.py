"""Streams made and removed on a real NATS server, and what is said where there is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from toolorchestra.bus.streams import StreamSettings
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.messaging.servers import MessagingUnreachable, NatsServers
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.trainings.nats_look import NatsLook
from toolorchestra_operator.trainings.observed import Messaging


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(directory=tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def servers() -> AsyncIterator[NatsServers]:
    made = NatsServers(patience=60)
    yield made
    await made.close()


async def names(url: str) -> set[str]:
    client = await nats.connect(url)
    try:
        return {info.config.name or "" for info in await client.jetstream().streams_info()}
    finally:
        await client.close()


async def test_made_twice_and_removed_twice(server: NatsServer, servers: NatsServers) -> None:
    streams = NatsStreams(servers=servers)
    for _ in range(2):
        await streams.make(url=server.url, uid="u1", settings=StreamSettings())
    assert {"TO_u1_TASKS", "TO_u1_RESULTS", "KV_TO_u1_STATE"} <= await names(server.url)
    await streams.make(url=server.url, uid="u2", settings=StreamSettings())
    for _ in range(2):
        await streams.remove(url=server.url, uid="u1")
    left = await names(server.url)
    assert left
    assert all("u2" in name for name in left)


async def test_a_look_tells_what_is_there_and_how_many_tasks_may_be_held(
    server: NatsServer, servers: NatsServers
) -> None:
    streams, look = NatsStreams(servers=servers), NatsLook(servers)
    assert await look.look(server.url, "u1") == Messaging()
    for leases in (40, 400, 20):
        await streams.make(url=server.url, uid="u1", settings=StreamSettings(max_ack_pending=leases))
        assert await look.look(server.url, "u1") == Messaging(ready=True, leases=leases)
    client = await nats.connect(server.url)
    await client.jetstream().delete_stream("TO_u1_DEAD")
    await client.close()
    assert await look.look(server.url, "u1") == Messaging(partial=True, leases=20)


@pytest.mark.parametrize("written", [b'{"step": 3}', b"[3]", b"three", b"\xff", b""])
async def test_of_progress_only_an_object_tells_anything(
    server: NatsServer, servers: NatsServers, written: bytes
) -> None:
    await NatsStreams(servers=servers).make(url=server.url, uid="u1", settings=StreamSettings())
    client = await nats.connect(server.url)
    await (await client.jetstream().key_value("TO_u1_STATE")).put("progress", written)
    await client.close()
    wanted = json.loads(written) if written.startswith(b"{") else {}
    assert (await NatsLook(servers).look(server.url, "u1")).progress == wanted


async def test_the_servers_refusal_in_its_words(server: NatsServer, servers: NatsServers) -> None:
    streams = NatsStreams(servers=servers)
    with pytest.raises(MessagingUnreachable, match="replicas > 1 not supported"):
        await streams.make(url=server.url, uid="u1", settings=StreamSettings(replicas=3))
    assert (await NatsLook(servers).look(server.url, "u1")).answered, "a refusal is an answer"
