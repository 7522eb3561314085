"""Why a training's pods do not come up, where they were refused before anybody could ask them."""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.openapi_excerpt import schemas
from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.trainings.observed import Observed
from toolorchestra_operator.trainings.pod_reasons import obstacle, of_workers
from toolorchestra_operator.trainings.runtime import Runtime

RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker")
FAILURE = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: team"}


def seen(*objects: dict[str, Any], events: tuple[dict[str, Any], ...] = ()) -> Observed:
    live = {Ref.of(one): one for one in objects}
    return Observed(parent={}, runtime=RUNTIME, schemas=schemas(), objects=live, events=events)


def made(kind: str, name: str, *, attempt: int = 1, spec: Any = None, **status: Any) -> dict[str, Any]:
    version = {"Job": "batch/v1", "RayJob": "ray.io/v1", "Deployment": "apps/v1"}[kind]
    labels = {"toolorchestra.dev/attempt": str(attempt)}
    metadata = {"name": name, "namespace": "n", "uid": name, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec or {}, "status": status}


def event(about: str, note: str, when: str, reason: str = "FailedCreate") -> dict[str, Any]:
    return {"reason": reason, "note": note, "regarding": {"uid": about}, "deprecatedLastTimestamp": when}


EVENTS = (
    event("head", "(combined from similar events): Error creating: the newest", "2030-01-01T00:00:02Z"),
    event("head", "Error creating: an older one", "2030-01-01T00:00:01Z"),
    event("head", "Created pod: x", "2030-01-01T00:00:03Z", reason="SuccessfulCreate"),
)


def test_the_newest_words_about_a_job_without_its_pods() -> None:
    found = obstacle(seen(made("Job", "head", spec={"parallelism": 1}), events=EVENTS), attempt=1)
    assert found == (Reason.PODS_REFUSED, "Job head: Error creating: the newest")


@pytest.mark.parametrize(
    "job",
    [
        made("Job", "head", spec={"parallelism": 1}, active=1),
        made("Job", "head", spec={"parallelism": 1}, conditions=[{"type": "Failed", "status": "True"}]),
        made("Job", "head", attempt=2, spec={"parallelism": 1}),
        made("Job", "other", spec={"parallelism": 1}),
    ],
    ids=["its pods are there", "it has ended", "of another attempt", "nothing is told of it"],
)
def test_what_was_told_before_says_nothing(job: dict[str, Any]) -> None:
    assert obstacle(seen(job, events=EVENTS), attempt=1) is None


def test_kuberay_tells_it_of_the_ray_cluster() -> None:
    job = made("RayJob", "tiny-1", rayClusterStatus={"conditions": [FAILURE]})
    found = obstacle(seen(job), attempt=1)
    assert found == (Reason.PODS_REFUSED, "RayCluster of tiny-1: pods cannot be made: exceeded quota: team")
    gone = made("RayJob", "tiny-1", rayClusterStatus={"conditions": [FAILURE | {"status": "False"}]})
    assert obstacle(seen(gone), attempt=1) is None


def test_workers_are_told_of_while_some_are_missing() -> None:
    spec = {"replicas": 2, "selector": {"matchLabels": {"a": "workers"}}}
    one = made("Deployment", "w", spec=spec, readyReplicas=1, conditions=[FAILURE])
    found = of_workers(one, ())
    assert found is not None
    assert found[1].startswith("1 of 2 rollout workers are ready: Deployment w: pods cannot be made: exceeded quota")
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    pods = [
        {"metadata": {"name": "w", "labels": {"a": "workers"}}, "status": {"containerStatuses": [{"state": waiting}]}},
        {"metadata": {"name": "h", "labels": {"a": "head"}}, "status": {"containerStatuses": [{"state": waiting}]}},
    ]
    pulling = of_workers(made("Deployment", "w", spec=spec), pods[:1])
    assert pulling == (
        Reason.IMAGE_PULL_FAILED,
        "0 of 2 rollout workers are ready: pod w: ImagePullBackOff: no such image",
    )
    assert of_workers(made("Deployment", "w", spec=spec), pods[1:]) is None, "the head is not theirs"
    assert of_workers(made("Deployment", "w", spec=spec, readyReplicas=2, conditions=[FAILURE]), pods) is None
