"""Trainings on KubeRay on a real API server with its real CRDs: what is made is accepted whole, and its status is
played row by row.

KubeRay's controller is played; NATS is a real server.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from support.cluster.kuberay_life import AGENT, RUNNING, World
from testbed.api import Refused
from testbed.cluster import Cluster

GPU = {"limits": {"nvidia.com/gpu": 1, "cpu": "8000m", "memory": "65536Mi"}, "requests": {"cpu": "4"}}


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
