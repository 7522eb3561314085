"""Both buses behind one fixture: what a test says of a bus it says of each implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.bus_rig import Make, Rig, nats_rig
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.bus.streams import StreamSettings
from toolorchestra.local.nats_server import NatsServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(directory=tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def nats_make(server: NatsServer) -> AsyncIterator[Make]:
    rigs: list[Rig] = []

    async def make(**settings: float) -> Rig:
        rigs.append(await nats_rig(server.url, StreamSettings(**settings), server))  # type: ignore[arg-type]
        return rigs[-1]

    yield make
    for bus in (bus for rig in rigs for bus in rig.opened):
        await bus.close()


@pytest.fixture
async def memory_make() -> AsyncIterator[Make]:
    rigs: list[Rig] = []

    async def make(**settings: float) -> Rig:
        one = MemoryBus(**settings)  # type: ignore[arg-type]

        async def connect() -> RolloutBus:
            return one

        rigs.append(Rig(connect=connect))
        return rigs[-1]

    yield make
    for bus in (bus for rig in rigs for bus in rig.opened):
        await bus.close()


@pytest.fixture(params=["memory", "nats"])
def make(request: pytest.FixtureRequest) -> Make:
    """`await make(max_tasks=…, ack_wait=…, max_deliver=…)` gives a Rig."""
    chosen: Make = request.getfixturevalue(f"{request.param}_make")
    return chosen
