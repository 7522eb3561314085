"""A pool beside a training, on a real API server and a real NATS server: what one has of the other, and what not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster.mortal_operator import LookingOperator
from support.cluster.pool_world import FOR_POOLS, vllm_pool
from support.cluster.training_life import GROUP, Stage, connected, documents
from testbed.api import Api
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings

CACHE: dict[str, Any] = {"type": "EphemeralClaim", "ephemeralClaim": {"size": "1Gi"}}


@pytest.fixture
async def played(
    server: ApiServer, api: Api, namespace: str, tmp_path: Path
) -> AsyncIterator[tuple[LookingOperator, Stage]]:
    """The operator, and the stage of a training `x`."""
    async with NatsServer(directory=tmp_path, sync_always=False) as nats, connected(nats.url) as bus:
        images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
        operator = LookingOperator(server, Settings.model_validate({"nats_url": nats.url, **images}))
        yield operator, Stage(api, namespace, bus, name="x")
        await operator.close()


async def test_a_training_is_told_of_no_pool_that_is_refused(played: tuple[LookingOperator, Stage]) -> None:
    """Its workers would send the Secret to the URL, where the operator may not."""
    operator, stage = played
    small, large = documents()[1]
    large["spec"]["endpoint"]["apiKeySecretRef"] = {"name": "key", "key": "key"}
    for pool in (small, large):
        stage.api.create(stage.of(GROUP, "expertpools"), pool)
    stage.api.create(stage.of("/api/v1", "secrets"), {"metadata": {"name": "key"}, "stringData": {"key": "hush"}})

    async def settles() -> None:
        for name in ("small", "large"):
            await operator.settles(stage.namespace, name, kind="ExpertPool")
        await operator.settles(stage.namespace, "x")

    stage.submit(pools=False)
    await settles()
    assert stage.condition("ExpertsReady") == ("False", "ExpertsUnavailable")
    assert not stage.jobs(1)
    stage.api.merge(stage.of("/api/v1", "secrets", "key"), {"metadata": {"labels": FOR_POOLS}})
    await settles()
    assert stage.jobs(1)


async def test_a_cache_is_shared_by_nobody_whose_names_happen_to_fit(played: tuple[LookingOperator, Stage]) -> None:
    operator, stage = played
    pool = vllm_pool(cache=CACHE)
    pool["metadata"]["name"] = "x-model"
    stage.api.create(stage.of(GROUP, "expertpools"), pool)
    stage.submit(ray={"provider": "Builtin", "modelCache": CACHE})
    for name in ("small", "large", "x-model"):
        await operator.settles(stage.namespace, name, kind="ExpertPool")
    await operator.settles(stage.namespace, "x")
    claims = stage.api.get(stage.of("/api/v1", "persistentvolumeclaims"))["items"]
    owners = {
        one["metadata"]["name"]: owner["name"] for one in claims for owner in one["metadata"].get("ownerReferences", [])
    }
    assert owners == {"x-models": "x", "x-model-cache": "x-model"}
