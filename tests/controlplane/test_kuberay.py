"""Trainings on KubeRay on a real API server with its real CRDs: what is made is accepted whole, its status is played
row by row, and what a second manager writes into a RayJob stays.

KubeRay's and Kueue's controllers are played; NATS is a real server.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from nats.aio.client import Client

from support.cluster.mortal_operator import LookingOperator
from support.cluster.training_life import Stage
from testbed.api import Refused
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings

FINALIZER = "ray.io/rayjob-finalizer"
GPU = {"limits": {"nvidia.com/gpu": 1, "cpu": "8000m", "memory": "65536Mi"}, "requests": {"cpu": "4"}}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
WORKLOADS = "/apis/kueue.x-k8s.io/v1beta2"
AGENT = {"user_agent": "toolorchestra-operator"}

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


@dataclass
class KubeRay:
    """What KubeRay's operator and Kueue would write about one training's RayJobs."""

    stage: Stage

    def path(self, attempt: int, part: str = "") -> str:
        return self.stage.of("/apis/ray.io/v1", "rayjobs", f"{self.stage.name}-{attempt}", part)

    def job(self, attempt: int) -> dict[str, Any]:
        return self.stage.api.get(self.path(attempt))

    def there(self, attempt: int) -> bool:
        jobs = self.stage.api.get(self.stage.of("/apis/ray.io/v1", "rayjobs"))["items"]
        return any(one["metadata"]["name"] == f"{self.stage.name}-{attempt}" for one in jobs)

    def takes_up(self, attempt: int) -> None:
        """Its finalizer, and the first status."""
        self.stage.api.merge(self.path(attempt), {"metadata": {"finalizers": [FINALIZER]}}, manager="kuberay")
        self.says(attempt, jobDeploymentStatus="Initializing", startTime="2030-01-01T00:00:00Z")

    def says(self, attempt: int, **status: Any) -> None:
        whole = {"failed": 0, "succeeded": 0, "rayClusterName": f"{self.stage.name}-{attempt}-abcde", **status}
        told = {"status": whole}
        self.stage.api.merge(self.path(attempt, "status"), told, manager="kuberay")
        live = self.job(attempt)["status"]
        assert {key: live[key] for key in whole} == whole, "KubeRay's CRD knows these fields"

    def lets_go(self, attempt: int) -> None:
        """It has stopped the Ray job of a RayJob that is being deleted."""
        assert "deletionTimestamp" in self.job(attempt)["metadata"]
        self.stage.api.merge(self.path(attempt), {"metadata": {"finalizers": None}}, manager="kuberay")

    def suspends(self, attempt: int, flag: bool, **selectors: str) -> None:
        """Kueue, as it writes: the whole spec, with the flavour's node selectors put into every pod template."""
        live = self.job(attempt)
        cluster = live["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            pod["nodeSelector"] = selectors
        live["spec"]["suspend"] = flag
        live["metadata"].pop("managedFields")
        self.stage.api.request("PUT", self.path(attempt), body=live, fieldManager="kueue")


@dataclass
class World:
    """One training, the operator that looks after it, and those who are played."""

    operator: LookingOperator
    stage: Stage
    kuberay: KubeRay

    async def rests(self) -> None:
        await self.operator.settles(self.stage.namespace, self.stage.name)

    async def begins(self, **spec: Any) -> None:
        self.stage.submit(**{"ray": {}, **spec})
        for pool in ("small", "large"):
            await self.operator.settles(self.stage.namespace, pool, kind="ExpertPool")
        await self.rests()

    async def runs(self, attempt: int, *, step: int = 1) -> None:
        await self.stage.tells(attempt, step)
        self.kuberay.says(attempt, **RUNNING, startTime="2030-01-01T00:00:00Z")
        await self.rests()
        assert self.stage.condition("Running") == ("True", "Training")
        assert self.stage.condition("ClusterReady") == ("True", "ClusterReady")

    def workers(self) -> int:
        deployment = self.stage.of("/apis/apps/v1", "deployments", f"{self.stage.name}-workers")
        return int(self.stage.api.get(deployment)["spec"]["replicas"])

    def message(self, kind: str) -> str:
        return next(str(one["message"]) for one in self.stage.status()["conditions"] if one["type"] == kind)


@pytest.fixture
async def world(
    kuberay: Cluster, server: ApiServer, namespace: str, nats_server: NatsServer, bus: Client
) -> AsyncIterator[World]:
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    settings = Settings.model_validate({"nats_url": nats_server.url, **images, "image_pull_secrets": ["registry"]})
    operator = LookingOperator(server, settings)
    stage = Stage(kuberay.api, namespace, bus)
    yield World(operator, stage, KubeRay(stage))
    await operator.close()


# ── what is made is accepted, whole ────────────────────────────────────────────────────────────────────────────────

VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {},
    "gpu": {
        "ray": {
            "image": "registry.example/toolorchestra-gpu:1",
            "head": {"resources": {"limits": {"cpu": "2", "memory": "8Gi"}}},
            "trainers": {"replicas": 2, "resources": GPU},
            "engines": {"replicas": 4, "resources": GPU},
        },
        "model": {
            "uri": "hf://Qwen/Qwen3-8B",
            "revision": "main",
            "price": {"inputUSDPerMillionTokens": "0.2", "outputUSDPerMillionTokens": "0.2"},
        },
        "storage": {"type": "EphemeralClaim", "ephemeralClaim": {"size": "102400Mi"}, "retentionPolicy": "Delete"},
        "keepFailedSeconds": 0,
    },
    "rich": {
        "priorityClassName": "high",
        "telemetry": {"otlpEndpoint": "http://collector:4318"},
        "ray": {
            "provider": "KubeRay",
            "trainers": {"resources": {"accelerator": "Claim"}},
            "engines": {"resources": {"accelerator": "Claim"}},
            "podTemplate": {
                "metadata": {"labels": {"team": "a"}, "annotations": {"x/y": "z"}},
                "spec": {
                    "nodeSelector": {"gpu": "h100"},
                    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "topologySpreadConstraints": [
                        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
                    ],
                    "affinity": {
                        "podAntiAffinity": {
                            "preferredDuringSchedulingIgnoredDuringExecution": [
                                {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
                            ]
                        }
                    },
                    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
                    "volumes": [{"name": "ib", "emptyDir": {"medium": "Memory"}}],
                },
            },
        },
    },
    "queued": {"queueName": "research"},
}


def lacks(wanted: Any, live: Any, path: str = "") -> Iterator[str]:
    """Where `live` does not have what was sent, as it was sent."""
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        for key, value in wanted.items():
            yield from lacks(value, live[key], f"{path}.{key}") if key in live else [f"{path}.{key} is gone"]
    elif isinstance(wanted, list | tuple) and isinstance(live, list) and len(wanted) == len(live):
        for number, (one, other) in enumerate(zip(wanted, live, strict=True)):
            yield from lacks(one, other, f"{path}[{number}]")
    elif wanted != live:
        yield f"{path}: {live!r} instead of {wanted!r}"


@pytest.mark.parametrize("variant", VARIANTS)
async def test_what_is_made_is_stored_whole_and_looked_at_again_left_alone(
    world: World, kuberay: Cluster, variant: str
) -> None:
    sent: list[Any] = []
    create = world.operator.api.create

    async def create_and_note(manifest: Mapping[str, Any]) -> dict[str, Any]:
        sent.append(copy.deepcopy(dict(manifest)))
        return await create(manifest)  # strictly: an unknown field is an error

    world.operator.api.create = create_and_note  # type: ignore[method-assign]
    since = kuberay.audit_log.position()
    await world.begins(**VARIANTS[variant])
    assert world.stage.condition("Accepted") == ("True", "Accepted")
    (job,) = (one for one in sent if one["kind"] == "RayJob")
    live = world.kuberay.job(1)
    (head,) = live["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    wanted = {"provider": "KubeRay", "name": "tiny-1", "image": head["image"]}
    assert world.stage.status()["ray"] == wanted
    assert list(lacks(job["spec"], live["spec"])) == [], "pruned, or changed"
    assert list(lacks(job["metadata"], live["metadata"])) == []
    assert live["spec"].get("suspend", False) is (variant == "queued")
    assert not live["spec"].keys() & {"deletionStrategy", "activeDeadlineSeconds", "preRunningDeadlineSeconds"}
    writes = kuberay.audit_log.writes(since=since, namespace=world.stage.namespace, **AGENT)
    assert [one.verb for one in writes if one.resource.startswith("rayjobs")] == ["create"]
    since = kuberay.audit_log.position()
    for _ in range(3):
        await world.rests()
    assert not kuberay.audit_log.writes(since=since, namespace=world.stage.namespace, **AGENT)


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
async def test_its_pods_are_let_in_where_pod_security_is_restricted(world: World, variant: str) -> None:
    """As KubeRay makes them: from the templates, with a command of its own."""
    api, core = world.stage.api, f"/api/v1/namespaces/{world.stage.namespace}"
    await world.begins(**VARIANTS[variant])
    api.merge(core, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    cluster = world.kuberay.job(1)["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = copy.deepcopy(group["template"])
        template["spec"]["containers"][0]["command"] = ["/bin/bash", "-c", "--"]
        api.create(f"{core}/pods", {**template, "metadata": {**template["metadata"], "name": "p"}}, dryRun="All")


# ── its status, row by row ─────────────────────────────────────────────────────────────────────────────────────────


async def test_up_to_complete(world: World) -> None:
    stage, played = world.stage, world.kuberay
    await world.begins()
    assert stage.condition("QuotaReserved") == ("True", "NoQueue")
    assert world.message("ClusterReady") == "KubeRay has not taken it up"
    assert world.workers() == 2
    played.takes_up(1)
    for status, said in (
        ({"jobDeploymentStatus": "Initializing"}, "its RayCluster is coming up"),
        ({"jobDeploymentStatus": "Running"}, "the driver is being submitted"),
        ({"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, "the driver is about to start"),
    ):
        played.says(1, **status)
        await world.rests()
        assert stage.condition("ClusterReady") == ("False", "ClusterStarting")
        assert world.message("ClusterReady") == said
    await world.runs(1)
    counts = {"desiredWorkerReplicas": 2, "readyWorkerReplicas": 1}
    played.says(1, rayClusterStatus=counts, **RUNNING)
    await world.rests()
    assert stage.condition("ClusterReady")[0] == "False"
    assert world.message("ClusterReady") == "trainers and engines: 1 of 2 ready"
    await stage.tells(1, 10, state="Complete")
    played.says(1, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", succeeded=1)
    await world.rests()
    assert stage.condition("Complete") == ("True", "StepsDone")
    assert stage.status()["exportURI"].startswith("pvc://tiny-storage/")
    played.lets_go(1)
    await world.rests()
    assert not played.there(1)
    world.operator.now += timedelta(days=1, seconds=1)
    await world.rests()
    with pytest.raises(Refused, match="not found"):
        stage.api.get(stage.of("/api/v1", "secrets", "tiny-ray"))
    assert stage.condition("Complete") == ("True", "StepsDone")


async def test_up_to_failed(world: World) -> None:
    stage, played = world.stage, world.kuberay
    await world.begins(backoffLimit=1)
    words = "failed with exit code {}, last available logs (truncated to 20,000 chars):\n{}"
    story: list[tuple[dict[str, str], int]] = [
        # How an attempt ends, and the restarts that are counted then.
        ({"jobStatus": "RUNNING", "reason": "JobStatusCheckTimeoutExceeded", "message": "5 minutes"}, 0),
        ({"jobStatus": "STOPPED"}, 0),
        ({"jobStatus": "FAILED", "reason": "AppFailed", "message": words.format(130, "stopped at step 3")}, 0),
        ({"jobStatus": "FAILED", "reason": "AppFailed", "message": words.format(1, "ValueError: boom")}, 1),
    ]
    for attempt, (status, restarts) in enumerate(story, start=1):
        played.takes_up(attempt)
        await world.runs(attempt)
        played.says(attempt, jobDeploymentStatus="Failed", **status)
        await world.rests()
        assert (stage.status()["attempt"], stage.status()["restarts"]) == (attempt + 1, restarts)
        assert played.there(attempt + 1)
        played.lets_go(attempt)
    last = len(story) + 1
    played.takes_up(last)
    await world.runs(last)
    played.says(last, jobDeploymentStatus="Failed", jobStatus="", reason="SubmissionFailed", message="no route")
    await world.rests()
    assert stage.condition("Failed") == ("True", "BackoffLimitExceeded")
    assert world.message("Failed").endswith("the driver could not be submitted: no route")
    assert "deletionTimestamp" not in played.job(last)["metadata"], "it stays for a look"
    world.operator.now += timedelta(seconds=601)
    await world.rests()
    played.lets_go(last)
    assert not played.there(last)


async def test_what_kuberay_refuses_ends_in_its_words(world: World) -> None:
    await world.begins(backoffLimit=3)
    world.kuberay.says(1, jobDeploymentStatus="ValidationFailed", reason="ValidationFailed", message="too long a name")
    await world.rests()
    assert world.stage.condition("Failed") == ("True", "ClusterRefused")
    assert world.stage.live()["status"]["restarts"] == 0
    assert "KubeRay refuses it: too long a name" in world.message("Failed")


async def test_suspended_resumed_and_deleted(world: World) -> None:
    """The RayJob goes before the token's Secret, which KubeRay's operator reads to let go of it."""
    stage, played = world.stage, world.kuberay
    await world.begins()
    played.takes_up(1)
    await world.runs(1)
    stage.api.merge(stage.path(stage.name), {"spec": {"suspend": True}})
    await world.rests()
    assert stage.condition("Suspended") == ("True", "Suspending")
    played.lets_go(1)
    await world.rests()
    assert stage.condition("Suspended") == ("True", "SuspendedByUser")
    stage.api.merge(stage.path(stage.name), {"spec": {"suspend": False}})
    await world.rests()
    played.takes_up(2)
    await world.runs(2)
    uid = stage.names.short_uid
    stage.api.delete(stage.path(stage.name))
    await world.rests()
    assert stage.live()["metadata"]["finalizers"] == ["toolorchestra.dev/streams"]
    assert await stage.streams(uid)
    assert stage.api.get(stage.of("/api/v1", "secrets", "tiny-ray"))["metadata"].get("deletionTimestamp") is None
    played.lets_go(2)
    await world.rests()
    with pytest.raises(Refused, match="not found"):
        stage.live()
    assert not await stage.streams(uid)


# ── Kueue ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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
