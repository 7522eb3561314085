"""Three nats-servers, streams with three replicas: what production runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.js.errors import Error as JetStreamError

from support.bus_rig import QUICK, collect, result, take, task
from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import BusFull, ResultKind
from toolorchestra.bus.streams import StreamSettings, make_streams
from toolorchestra.local.nats_server import find_binary, free_port
from toolorchestra.process import Child


@dataclass
class Cluster:
    children: list[Child]
    urls: list[str]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    ports, routes = [free_port() for _ in range(3)], [free_port() for _ in range(3)]
    children = []
    for n in range(3):
        config = tmp_path / f"n{n}.conf"
        others = ", ".join(json.dumps(f"nats://127.0.0.1:{port}") for port in routes)
        config.write_text(
            f'server_name: n{n}\nhost: "127.0.0.1"\nport: {ports[n]}\n'
            f"jetstream {{ store_dir: {json.dumps(str(tmp_path / f'store{n}'))} }}\n"
            f'cluster {{ name: c, host: "127.0.0.1", port: {routes[n]}, routes: [{others}] }}\n'
        )
        child = Child(name=f"n{n}", argv=[find_binary(), "-c", str(config)], log=tmp_path / f"n{n}.log")
        child.start()
        children.append(child)
    yield Cluster(children, [f"nats://127.0.0.1:{port}" for port in ports])
    for child in children:
        await child.stop(grace=0)


async def made(cluster: Cluster, uid: str, settings: StreamSettings) -> None:
    """Make the streams as soon as the cluster has elected a leader."""
    client = await nats.connect(cluster.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=_quiet)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    return await make_streams(client.jetstream(timeout=3), uid=uid, settings=settings)
                except (nats.errors.Error, JetStreamError):
                    await asyncio.sleep(0.1)
    finally:
        await client.close()


async def _quiet(_: Exception) -> None:
    """Servers that are not up yet are expected."""


async def test_refusals_and_a_lost_server(cluster: Cluster) -> None:
    await made(cluster, "c1", StreamSettings(replicas=3, max_tasks=3, ack_wait=5))
    bus = await NatsBus.connect(",".join(cluster.urls), uid="c1", timeouts=QUICK)
    # Proposals race for the last places: whoever is refused must not be swallowed when it is submitted again.
    refused = await asyncio.gather(*(bus.submit(task(n)) for n in range(6)), return_exceptions=True)
    assert sum(isinstance(error, BusFull) for error in refused) == 3
    assert sum(error is None for error in refused) == 3
    waiting = [n for n in range(6) if refused[n] is not None]
    for n in waiting:
        with pytest.raises(BusFull):
            await bus.submit(task(n))
    for lease in await take(bus, 3):
        await bus.complete(lease, result(lease))
    for n in waiting:
        await bus.submit(task(n))
    again = await take(bus, 3)
    assert sorted(lease.envelope.id for lease in again) == [task(n).id for n in waiting]
    cluster.children[0].kill()
    for lease in again:
        await bus.complete(lease, result(lease))
    received = await collect(bus.results(), 6)
    assert {r.kind for r in received} == {ResultKind.COMPLETED}
    assert {r.envelope.id for r in received} == {task(n).id for n in range(6)}
    await bus.close()
