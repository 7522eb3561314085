"""Trainings in a queue, on a real API server: Kueue admits and preempts, and what it writes into a RayJob stays.

The controllers of KubeRay and Kueue are played; NATS is a real server.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.kuberay_life import AGENT, RUNNING, World
from testbed.cluster import Cluster

WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2"
WORKLOAD_CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "workloads.kueue.x-k8s.io"},
    "spec": {
        "group": "kueue.x-k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "workloads", "singular": "workload", "kind": "Workload", "listKind": "WorkloadList"},
        "versions": [
            {
                "name": "v1beta2",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
"""As little of Kueue's as is read; its own is not to be had here."""


async def test_a_second_managers_suspend_and_selectors_stay(world: World, kuberay: Cluster) -> None:
    stage, played = world.stage, world.kuberay
    await world.begins(queueName="research")
    assert played.job(1)["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert world.workers() == 0
    since = kuberay.audit_log.position()
    for flag, flavour, workers in ((False, "a100", 2), (True, "", 0), (False, "h100", 2)):
        played.suspends(1, flag, **({"flavour": flavour} if flavour else {}))
        injected = played.job(1)
        for _ in range(2):
            await world.rests()
            live = played.job(1)
            assert live["spec"] == injected["spec"]
            assert live["metadata"]["resourceVersion"] == injected["metadata"]["resourceVersion"]
        assert world.workers() == workers
    assert stage.condition("QuotaReserved") == ("True", "QuotaReserved")
    writes = kuberay.audit_log.writes(since=since, namespace=stage.namespace, **AGENT)
    assert not [one for one in writes if one.resource.startswith("rayjobs")]


@pytest.fixture
def kueue(kuberay: Cluster, tmp_path: Path) -> Cluster:
    """With Workloads served; only in a control plane of our own: elsewhere there may be a real Kueue."""
    assert kuberay.own is not None
    file = tmp_path / "workloads.yaml"
    file.write_text(yaml.safe_dump(WORKLOAD_CRD), encoding="utf-8")
    kuberay.api.apply_crds([file])
    return kuberay


def condition(kind: str, status: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Played", "message": message}


async def test_a_queue_admits_preempts_and_admits_again(world: World, kueue: Cluster) -> None:
    stage, played = world.stage, world.kuberay
    await world.begins(queueName="research", backoffLimit=0)
    assert stage.condition("QuotaReserved") == ("False", "QuotaPending")
    world.operator.now += timedelta(seconds=120)
    await world.rests()
    assert stage.condition("QuotaReserved") == ("Unknown", "QuotaUnknown")
    assert "Kueue made no Workload for RayJob tiny-1" in world.message("QuotaReserved")

    labels = {"kueue.x-k8s.io/job-uid": played.job(1)["metadata"]["uid"]}
    workloads = stage.of(WORKLOADS, "workloads")
    kind = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload"}
    kueue.api.create(workloads, {**kind, "metadata": {"name": "rayjob-tiny-1-b8f3d", "labels": labels}})

    def decides(*conditions: dict[str, str]) -> None:
        status = {"status": {"conditions": list(conditions)}}
        kueue.api.merge(f"{workloads}/rayjob-tiny-1-b8f3d/status", status, manager="kueue")

    decides(condition("QuotaReserved", "False", "insufficient unused quota for nvidia.com/gpu"))
    await world.rests()
    assert stage.condition("QuotaReserved") == ("False", "QuotaPending")
    assert world.message("QuotaReserved") == "queue research: insufficient unused quota for nvidia.com/gpu"
    decides(condition("QuotaReserved", "True", ""), condition("Admitted", "True", ""))
    played.suspends(1, False, flavour="a100")
    played.takes_up(1)
    await world.rests()
    assert stage.condition("QuotaReserved") == ("True", "QuotaReserved")
    assert world.workers() == 2
    await world.runs(1)

    decides(
        condition("QuotaReserved", "False", "Preempted to accommodate a workload"),
        condition("Evicted", "True", "Preempted to accommodate a workload"),
    )
    played.suspends(1, True)
    for status in (RUNNING, {"jobDeploymentStatus": "Suspending", "jobStatus": "RUNNING"}):
        played.says(1, **status)
        await world.rests()
        assert stage.condition("QuotaReserved") == ("False", "Preempted")
        assert stage.condition("Running") == ("False", "Preempted")
        assert world.workers() == 0
    await stage.tells(1, 3, state="Cancelled")
    played.says(1, jobDeploymentStatus="Suspended", jobStatus="")
    world.operator.now += timedelta(days=1)
    await world.rests()
    assert (stage.status()["attempt"], stage.status()["restarts"]) == (1, 0)
    assert stage.condition("Failed") == ("", "")

    played.suspends(1, False, flavour="h100")
    await world.rests()
    assert stage.condition("QuotaReserved") == ("True", "QuotaReserved")
    again = world.operator.now.isoformat().replace("+00:00", "Z")
    played.says(1, jobDeploymentStatus="Initializing", startTime=again)
    await world.rests()
    assert world.workers() == 2
    await world.runs(1, step=4)
