"""Trainings of a shared cluster on a real API server: whether the operator accepts them, and the server their pods.

No controller runs: a Job's pods are tried by the test, as the Job controller would, and what it would write is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from support.cluster.mortal_operator import LookingOperator
from support.cluster.training_life import GROUP, Stage
from testbed.api import Refused
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings

BUILTIN = {"provider": "Builtin"}


def operator_of(server: ApiServer, nats_server: NatsServer, **more: Any) -> LookingOperator:
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    pools = {"pool_cpu_image": "cpu:1", "pool_gpu_image": "gpu:1"}
    return LookingOperator(server, Settings.model_validate({"nats_url": nats_server.url, **images, **pools, **more}))


async def admitted(operator: LookingOperator, stage: Stage, **spec: Any) -> tuple[str, str]:
    """The training after its first rest: status and reason of `Accepted`."""
    experts = stage.api.get(stage.of(GROUP, "expertpools"))["items"]
    stage.submit(pools=not experts, **spec)
    for pool in () if experts else ("small", "large"):
        await operator.settles(stage.namespace, pool, kind="ExpertPool")
    await operator.settles(stage.namespace, stage.name)
    return stage.condition("Accepted")


def named(stage: Stage, cases: Iterable[Any]) -> Iterator[tuple[Stage, Any]]:
    """A training of its own for each case, in one namespace."""
    for number, case in enumerate(cases):
        yield replace(stage, name=f"case-{number}"), case


def message(stage: Stage, kind: str = "Accepted") -> str:
    (found,) = (one for one in stage.status()["conditions"] if one["type"] == kind)
    return str(found["message"])


def makers(stage: Stage) -> dict[str, dict[str, Any]]:
    """What makes pods in the namespace: its name, and its template."""
    kinds = (("/apis/batch/v1", "jobs"), ("/apis/apps/v1", "deployments"))
    found = (one for group, plural in kinds for one in stage.api.get(stage.of(group, plural))["items"])
    return {one["metadata"]["name"]: one["spec"]["template"] for one in found}


def tried(stage: Stage, name: str, template: dict[str, Any]) -> str:
    """A pod of a template, as a controller makes it; the API server's words where it refuses."""
    metadata = {"name": f"{name}-0", "labels": template["metadata"]["labels"]}
    try:
        stage.api.create(stage.of("/api/v1", "pods"), {"metadata": metadata, "spec": template["spec"]})
    except Refused as refused:
        return str(refused.message)
    return ""


def quota(stage: Stage, hard: dict[str, str]) -> None:
    """A ResourceQuota that counts; its controller, which does not run here, would write its status."""
    path = stage.of("/api/v1", "resourcequotas")
    stage.api.create(path, {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    stage.api.merge(f"{path}/team/status", {"status": {"hard": hard, "used": dict.fromkeys(hard, "0")}})
