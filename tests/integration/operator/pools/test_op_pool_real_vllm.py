"""A replica without a GPU, its command and programs run as they are: a real vLLM serves under its key, and drains."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.cluster.pool_world import HERE, PoolWorld, vllm_pool
from support.tiny_model import tiny_model
from testbed.control_plane import free_port
from toolorchestra.process import Child, tail
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.pools.names import PORT
from toolorchestra_operator.pools.probe import Prober, Target

pytestmark = [pytest.mark.real, pytest.mark.cluster]  # in `make e2e`: its minutes are too many for every change

START_SECONDS = 400
POOL = Key("ExpertPool", "default", "qwen")


class Replica:
    """A container's main process on this machine, on another port, with its cache in a folder."""

    def __init__(self, folder: Path, world: PoolWorld) -> None:
        self.port, self.key, self.container = free_port(), world.key(), world.container()
        given = {one["name"]: one["value"] for one in self.container["env"] if "value" in one}
        here = {name: value.replace("/cache", str(folder / "cache")) for name, value in given.items()}
        self.env = {**os.environ, **here, "HOME": str(folder), "VLLM_API_KEY": self.key}
        command = [sys.executable, *(str(self.port) if part == str(PORT) else part for part in self._command()[1:])]
        self.child = Child(name="replica", argv=command, log=folder / "replica.log", env=self.env)

    def _command(self) -> list[str]:
        command: list[str] = self.container["command"]
        return command

    async def program(self, hook: dict[str, Any]) -> int:
        """The exit status of a probe's or a hook's program."""
        command = [part.replace(f":{PORT}", f":{self.port}") for part in hook["exec"]["command"]]
        process = await asyncio.create_subprocess_exec(sys.executable, *command[1:], env=self.env)
        return await asyncio.wait_for(process.wait(), timeout=120)

    async def started(self) -> None:
        """What the startup probe waits for."""
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as session:
            while True:
                assert self.child.alive, tail(self.child.log, lines=30)
                try:
                    async with session.get(f"http://127.0.0.1:{self.port}/health") as reply:
                        if reply.status == 200:
                            return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.5)

    async def complete(self, *, tokens: int) -> int:
        """How many tokens a completion has."""
        body = {
            "model": "qwen",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": tokens,
            "ignore_eos": True,
        }
        headers = {"Authorization": f"Bearer {self.key}"}
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=body) as reply:
            assert reply.status == 200, await reply.text()
            written: int = (await reply.json())["usage"]["completion_tokens"]
            return written


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    model = tiny_model(tmp_path / "model")
    world = PoolWorld(vllm_pool(model={"uri": f"file://{model}"}, maxModelLen=2048, drainSeconds=60))
    world.settle()
    made = Replica(tmp_path, world)
    made.child.start()
    yield made
    await made.child.stop(grace=20, first=signal.SIGTERM)


async def test_a_replica_serves_under_its_key_and_drains(replica: Replica) -> None:
    readiness = replica.container["readinessProbe"]
    assert await replica.program(readiness) == 1, "not ready before it serves"
    await replica.started()
    assert await replica.program(readiness) == 0
    url = f"http://127.0.0.1:{replica.port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v1/models") as reply:
            assert reply.status == 401, "nobody without the key"
        async with session.post(f"{url}/pause") as reply:
            assert reply.status == 404, "no routes of the development mode"
    prober = Prober(HERE, patience=60)
    try:
        answer = await prober.answer(POOL, Target("Models", f"{url}/v1", "qwen", key=replica.key, inside=True))
        assert answer is not None
        assert (answer.ok, answer.served_model) == (True, "qwen")
    finally:
        await prober.close()
    in_flight = asyncio.create_task(replica.complete(tokens=1500))
    hook = replica.container["lifecycle"]["preStop"]
    assert await replica.program(hook) == 0
    assert in_flight.done(), "the hook ends when nothing is in flight"
    assert await in_flight == 1500
