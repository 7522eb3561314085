"""Engines under a real Ray whose node goes in the middle of a load: what Ray says then, and the actor comes back."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from toolorchestra.contract.ray import ENGINE_ROLE
from toolorchestra.engines.actor import EngineStatus
from toolorchestra.engines.fleet import Engines
from toolorchestra.weights.snapshot import Snapshot

pytestmark = pytest.mark.real


class StandIn:
    """An engine's actor without vLLM. Its first life never ends a load; the next ones do."""

    def __init__(self, name: str) -> None:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self.hangs = not again
        self.status = EngineStatus(name, state="ready", url="http://e")
        self.changed = threading.Condition()

    def wait_status(self, seen: EngineStatus, timeout: float) -> EngineStatus:
        with self.changed:
            self.changed.wait_for(lambda: self.status != seen, timeout)
            return self.status

    def load(self, snapshot: Snapshot) -> EngineStatus:
        if self.hangs:
            threading.Event().wait()
        with self.changed:
            self.status = replace(self.status, version=snapshot.version, wanted=snapshot.version)
            self.changed.notify_all()
            return self.status

    adopt = load

    def stop(self) -> None:
        """Nothing to end."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=made.address, namespace="engines", log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this file
    yield made
    ray.shutdown()
    made.shutdown()


async def test_a_node_that_is_lost_in_a_load_is_waited_for(cluster: Cluster) -> None:
    node = cluster.add_node(num_cpus=1, resources={ENGINE_ROLE: 1})
    options = {"lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "max_concurrency": 8}
    published: list[dict[str, Any]] = []
    waits, paused, said = asyncio.Event(), asyncio.Event(), []

    async def put(key: str, value: bytes) -> None:
        published.append(json.loads(value))
        if published[-1]["paused"]:
            paused.set()

    def wait(words: str) -> None:
        said.append(words)
        waits.set()

    def actor(i: int) -> Any:
        return ray.remote(StandIn).options(name=f"engine-{i}", resources={ENGINE_ROLE: 1}, **options).remote("engine-0")

    engines = Engines(1, actor=actor, put=put, on_change=lambda status: None, on_wait=wait)
    watch = asyncio.create_task(engines.watch())
    async with engines._ready, asyncio.timeout(60):
        await engines._ready.wait_for(lambda: engines.statuses[0].state == "ready")
    load = asyncio.create_task(engines.load(Snapshot(path="p", version="0-1", digest="d")))
    await asyncio.wait_for(paused.wait(), 60)
    await asyncio.to_thread(cluster.remove_node, node, allow_graceful=False)
    await asyncio.wait_for(waits.wait(), 120)
    assert "engine-0 is restarting its actor does not answer" in said[-1]
    assert not published[-1]["paused"]
    cluster.add_node(num_cpus=1, resources={ENGINE_ROLE: 1})  # not in a thread: it sets signal handlers
    await asyncio.wait_for(load, 120)
    assert [e["version"] for e in published[-1]["engines"] if e["routable"]] == ["0-1"]
    watch.cancel()
    await engines.stop()
