"""What the operator does not write: nothing where nothing changed, and nothing because the operator is another one.

The API server's audit log is the judge; the operator is the real process.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from support.cluster.operator_process import RunningOperator, operator_process, until
from support.cluster.pool_world import vllm_pool
from support.cluster.training_life import GROUP, Player, Stage, connected, documents, played
from testbed.audit import Write
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.pools.names import POOL_LABEL

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRAININGS = tuple(f"training-{number}" for number in range(12))
SERVED = tuple(f"served-{number}" for number in range(8))
"""Pools that vLLM serves; two endpoints that the trainings use come on top."""
OBJECTS = len(TRAININGS) + len(SERVED) + 2
RESYNC_SECONDS = 1
LOOKS = 10.0
"""Progress is looked at every so many seconds (`trainings.progress.LOOK_SECONDS`)."""


@dataclass
class Steady:
    """A namespace in which everything runs, and an operator has nothing to do."""

    cluster: Cluster
    namespace: str
    stages: tuple[Stage, ...]
    nats_url: str
    log: Path

    @asynccontextmanager
    async def operator(self, *more: str) -> AsyncIterator[RunningOperator]:
        flags = ("--watch-namespaces", self.namespace, "--nats-url", self.nats_url)
        flags += ("--resync-seconds", str(RESYNC_SECONDS), *more)
        async with operator_process(self.cluster.kubeconfig, self.log, *flags) as running:
            yield running

    def writes(self, since: int) -> list[Write]:
        log = self.cluster.audit_log
        found = log.writes(since=since, user_agent="toolorchestra-operator", namespace=self.namespace)
        return [write for write in found if not write.resource.startswith("leases.")]

    def nothing_is_written(self, since: int) -> None:
        if found := self.writes(since):
            events = self.cluster.api.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"]
            told = {one["metadata"]["name"]: one["note"] for one in events}
            pytest.fail("\n".join(f"{write} {told.get(write.name, '')}" for write in found))

    def pools_come_up(self) -> None:
        """Their replicas are ready; that nobody answers under the Services' names is as it is."""
        deployments = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        rolled = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
        count = ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas")
        for live in self.cluster.api.get(deployments)["items"]:
            if POOL_LABEL in live["metadata"]["labels"]:
                status = {"observedGeneration": live["metadata"]["generation"], "conditions": [rolled]}
                path = f"{deployments}/{live['metadata']['name']}/status"
                self.cluster.api.merge(path, {"status": {**status, **dict.fromkeys(count, 1)}})

    async def at_rest(self, operator: RunningOperator) -> None:
        """Everything runs, and a whole resync has written nothing."""

        async def all_run() -> bool:
            trainings = self.cluster.api.get(self.stages[0].path())["items"]
            pools = self.cluster.api.get(f"{GROUP}/namespaces/{self.namespace}/expertpools")["items"]
            return all(_is(one, "Running") for one in trainings) and all(_is(one, "Accepted") for one in pools)

        async def is_quiet() -> bool:
            since = self.cluster.audit_log.position()
            await looks_again(operator)
            return not self.writes(since)

        await until(all_run, seconds=240)
        await until(is_quiet, seconds=120)


async def looked(operator: RunningOperator, times: float) -> None:
    """Wait until it has looked at objects so many times, all together."""

    async def has_it() -> bool:
        return await operator.sample("reconcile_seconds_count") >= times

    await until(has_it, seconds=120)


async def looks_again(operator: RunningOperator, times: int = 1) -> None:
    """Wait until it has been through everything so many times more: a busy machine looks slower than it lists."""
    looks = await operator.sample("reconcile_seconds_count")
    await operator.resyncs(times)
    await looked(operator, looks + times * OBJECTS)


def _is(live: dict[str, Any], kind: str) -> bool:
    conditions = (live.get("status") or {}).get("conditions") or ()
    return any(one["type"] == kind and one["status"] == "True" for one in conditions)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def steady(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Steady]:
    namespace, tmp_path = f"steady-{uuid.uuid4().hex[:6]}", tmp_path_factory.mktemp("steady")
    cluster.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    async with AsyncExitStack() as stack:
        nats_server = await stack.enter_async_context(NatsServer(directory=tmp_path / "nats", sync_always=False))
        bus = await stack.enter_async_context(connected(nats_server.url))
        stages = tuple(Stage(cluster.api, namespace, bus, name) for name in TRAININGS)
        pools = f"{GROUP}/namespaces/{namespace}/expertpools"
        for pool in documents()[1]:
            cluster.api.create(pools, pool)
        for name in SERVED:
            pool = vllm_pool()
            cluster.api.create(pools, {**pool, "metadata": {"name": name}})
        for stage in stages:
            stage.submit(pools=False)
        made = Steady(cluster, namespace, stages, nats_server.url, tmp_path / "operator.log")
        players = [Player(stage, failing=0, endless=True) for stage in stages]
        async with made.operator() as operator, played(*players):
            await made.at_rest(operator)
            made.pools_come_up()
            await made.at_rest(operator)
        yield made


async def test_three_resyncs_of_all_write_nothing_but_progress(steady: Steady) -> None:
    async with steady.operator() as operator:
        await looks_again(operator)
        since = steady.cluster.audit_log.position()
        await looks_again(operator, 3)
        steady.nothing_is_written(since)
        # The one thing that is news every ten seconds.
        teller = steady.stages[3]
        await teller.tells(1, 7)

        async def is_told() -> bool:
            return teller.status().get("step") == 7

        await until(is_told, seconds=3 * LOOKS)
        await looks_again(operator)
        told = Counter((write.verb, write.resource, write.name) for write in steady.writes(since))
        assert set(told) == {("patch", "orchestratortrainings.toolorchestra.dev/status", teller.name)}, told
        assert await operator.ends() == 0


async def test_an_operator_with_other_images_and_settings_rolls_nothing(steady: Steady) -> None:
    since = steady.cluster.audit_log.position()
    images = [("--cpu-image", "a:2"), ("--gpu-image", "b:2"), ("--worker-image", "c:2"), ("--pool-cpu-image", "d:2")]
    images += [("--pool-gpu-image", "e:2"), ("--image-pull-secrets", "another"), ("--cpu-threads", "7")]
    images += [("--otlp-endpoint", "http://collector:4318"), ("--stream-replicas", "3")]
    async with steady.operator(*(part for pair in images for part in pair)) as operator:
        await looks_again(operator, 2)
        assert await operator.ends() == 0
    steady.nothing_is_written(since)
