"""What is read for a training."""

from __future__ import annotations

from typing import Any

import pytest

from support.openapi_excerpt import schemas
from support.training_life import documents
from toolorchestra.api.scalars import MOST_TEXT
from toolorchestra_operator.kubernetes.manifest import Key, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.trainings.observe import API_VERSION, TrainingObserver
from toolorchestra_operator.trainings.observed import Messaging
from toolorchestra_operator.trainings.runtime import Runtime

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
