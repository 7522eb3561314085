"""What is read for a training."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from support.cluster.openapi_excerpt import schemas
from support.cluster.training_life import documents
from toolorchestra.api.scalars import MOST_TEXT
from toolorchestra.contract.labels import FINALIZER
from toolorchestra_operator.kubernetes.manifest import Key, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.planning.plan import SetFinalizer
from toolorchestra_operator.trainings.observe import API_VERSION, TrainingObserver
from toolorchestra_operator.trainings.observed import Messaging
from toolorchestra_operator.trainings.reconcile import reconcile
from toolorchestra_operator.trainings.runtime import Runtime
from toolorchestra_operator.trainings.terms import nats_url_of

KEY = Key("OrchestratorTraining", "default", "tiny")
RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker")


class FakeApi:
    """Objects by reference."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = {Ref.of(one): one for one in objects}
        self.serves: set[str] = set()

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        return self.objects.get(ref)

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> list[dict[str, Any]]:
        return [one for ref, one in self.objects.items() if (ref.api_version, ref.kind) == (api_version, kind)]

    async def openapi(self) -> Schemas:
        return schemas()

    async def served(self, api_version: str, kind: str) -> bool:
        return api_version in self.serves


class NoStreams:
    async def look(self, url: str, uid: str) -> Messaging:
        raise AssertionError("there is no NATS")

    async def value(self, url: str, uid: str, key: str) -> bytes | None:
        raise AssertionError("there is no NATS")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"wise": " Knows trees.\n"}, "Knows trees."),
        ({"wise": "x" * 5000}, "x" * MOST_TEXT),
        ({"wise": "  "}, None),
        ({"other": "x"}, None),
        (None, None),
    ],
)
async def test_a_description_kept_elsewhere_is_told_as_if_it_were_the_pool_s(
    data: dict[str, str] | None, text: str | None
) -> None:
    """Of a text that is not there the pool itself says so."""
    training, pools = documents()
    training["metadata"] |= {"namespace": "default", "uid": "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"}
    kept = {"configMapKeyRef": {"name": "texts", "key": "wise"}}
    for pool in pools:
        pool["metadata"]["namespace"] = "default"
    del pools[0]["spec"]["description"]
    pools[0]["spec"]["descriptionFrom"] = kept
    texts = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "texts", "namespace": "default"}}
    held = [] if data is None else [texts | {"data": data}]
    assert training["apiVersion"] == API_VERSION
    api = FakeApi(training, *pools, *held)
    observed = await TrainingObserver(api=api, streams=NoStreams(), runtime=RUNTIME).observe(KEY)
    assert observed is not None
    described, other = observed.pools
    assert described.spec.description == text
    assert described.spec.description_from is None
    assert other.spec.description == pools[1]["spec"]["description"]


@pytest.mark.parametrize("serves", [{"v1beta1"}, {"v1beta2"}, {"v1beta1", "v1beta2"}, set[str]()])
async def test_workloads_are_read_in_whichever_version_kueue_serves(serves: set[str]) -> None:
    training, _ = documents(queueName="research")
    training["metadata"] |= {"namespace": "default", "uid": "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"}
    training["status"] = {"attempt": 1, "ray": {"provider": "KubeRay", "name": "tiny-1"}}
    where = {"name": "tiny-1", "namespace": "default", "uid": "1"}
    owner = {"kind": training["kind"], "name": "tiny", "uid": training["metadata"]["uid"], "controller": True}
    about = where | {"ownerReferences": [owner]}
    job = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": about, "spec": {"suspend": True}}
    made = {
        version: {"apiVersion": f"kueue.x-k8s.io/{version}", "kind": "Workload", "metadata": {"name": version} | where}
        for version in serves
    }
    api = FakeApi(training, job, *made.values())
    api.serves = {one["apiVersion"] for one in made.values()}
    observed = await TrainingObserver(api=api, streams=NoStreams(), runtime=RUNTIME).observe(KEY)
    assert observed is not None
    assert observed.workloads == ((made[max(serves)],) if serves else None)


@pytest.mark.parametrize(
    "nonsense",
    [
        *({"spec": spec} for spec in (None, [], "x", {"messaging": "x"}, {"messaging": {"url": 5}, "ray": 7})),
        *({"status": status} for status in (None, [], {"attempt": "x"}, {"attempt": -1}, {"conditions": [5]})),
        *({"status": {"attempt": 1, **more}} for more in ({"startTime": "soon"}, {"ray": "x"}, {"experts": [{}]})),
    ],
)
async def test_no_word_in_a_training_that_is_deleted_keeps_it(nonsense: dict[str, Any]) -> None:
    """What a CRD of another release took, or somebody wrote past it: the finalizer would hold its namespace too."""
    training, _ = documents()
    training["metadata"] |= {"namespace": "default", "uid": "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"}
    training["metadata"] |= {"deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": [FINALIZER]}
    observer = TrainingObserver(FakeApi(training | nonsense), NoStreams(), RUNTIME)
    observed = await observer.observe(KEY)
    assert observed is not None
    assert reconcile(observed, datetime(2030, 1, 1, tzinfo=UTC)).actions == (SetFinalizer(present=False),)


async def test_many_pools_let_others_work_meanwhile() -> None:
    training, (pool, *_) = documents()
    training["metadata"] |= {"namespace": "default", "uid": "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"}
    pools = [pool | {"metadata": {"name": f"p{number}", "namespace": "default"}} for number in range(50)]
    look = asyncio.create_task(TrainingObserver(FakeApi(training, *pools), NoStreams(), RUNTIME).observe(KEY))
    turns = 0
    while not look.done():
        await asyncio.sleep(0)
        turns += 1
    observed = await look
    assert observed is not None
    assert len(observed.pools) == 50
    assert turns >= 50


def test_what_is_none_of_a_url_is_no_server() -> None:
    """The sweep asks all of them: one of nonsense would end it for everybody."""
    found = [nats_url_of({"spec": spec}) for spec in (None, "x", {"messaging": "x"}, {"messaging": {"url": 5}}, {})]
    assert found == [None] * 5
    assert nats_url_of({"spec": {"messaging": {"url": "nats://a"}}}) == "nats://a"
