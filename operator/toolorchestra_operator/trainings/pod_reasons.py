"""Why pods do not start: the message of the scheduler, the kubelet, or the API server that refuses them. Pure.

A pod that is refused (by a quota, pod security, a missing PriorityClass or ServiceAccount, or a webhook) does not
exist. A Deployment and KubeRay's RayCluster report it in their status; for a Job, only its events do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra.contract.labels import ATTEMPT_LABEL
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.trainings.observed import Observed

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_BROKEN = ("CreateContainerConfigError", "CreateContainerError", "CrashLoopBackOff", "RunContainerError")
_FAILED_CREATE: Final = "FailedCreate"
"""Reason of the Job controller's event."""
_AGGREGATED: Final = "(combined from similar events): "

Obstacle = tuple[Reason, str]


def obstacle(observed: Observed, *, attempt: int) -> Obstacle | None:
    """Return the first obstacle that keeps a pod from running, or from being created; None: there is none."""
    return of_pods(observed.pods) or next(_refusals(observed, attempt), None)


def of_workers(deployment: Manifest, pods: Sequence[Manifest]) -> Obstacle | None:
    """Return why workers are missing, while their Deployment has fewer than it wants. `pods`: of the training."""
    if not lacks_workers(deployment):
        return None
    labels = deployment["spec"]["selector"]["matchLabels"].items()
    own = [pod for pod in pods if labels <= (pod["metadata"].get("labels") or {}).items()]
    found = _of_deployment(deployment) or of_pods(own)
    if found is None:
        return None
    wanted = deployment["spec"].get("replicas", 1)
    return found[0], f"{ready_workers(deployment)} of {wanted} rollout workers are ready: {found[1]}"


def ready_workers(deployment: Manifest) -> int:
    """Return the number of ready rollout workers."""
    return int((deployment.get("status") or {}).get("readyReplicas", 0))


def lacks_pods(job: Manifest) -> bool:
    """Return whether a Job that has not ended has fewer pods than it wants; its events may say why."""
    status: Manifest = job.get("status") or {}
    ended = any(
        one["status"] == "True" for one in status.get("conditions") or () if one["type"] in ("Complete", "Failed")
    )
    return not ended and status.get("active", 0) < job["spec"].get("parallelism", 1)


def lacks_workers(deployment: Manifest) -> bool:
    """Return whether fewer workers are ready than the Deployment wants."""
    return bool(deployment["spec"].get("replicas", 1) > ready_workers(deployment))


def of_pods(pods: Sequence[Manifest]) -> Obstacle | None:
    """Return the first obstacle, of the pods in the order of their names."""
    for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"])):
        if found := _unschedulable(pod) or _waiting(pod):
            reason, message = found
            return reason, f"pod {pod['metadata']['name']}: {message}"
    return None


def _refusals(observed: Observed, attempt: int) -> Iterator[Obstacle]:
    """Yield refusals of everything that creates pods for an attempt: its Jobs or its RayJob, and the Deployment."""
    for ref, live in observed.objects.items():
        of_attempt = (live["metadata"].get("labels") or {}).get(ATTEMPT_LABEL) == str(attempt)
        match ref.kind:
            case "Job" if of_attempt and lacks_pods(live):
                found = _of_job(live, observed.events)
            case "RayJob" if of_attempt:
                cluster = (live.get("status") or {}).get("rayClusterStatus") or {}
                found = _in_condition(cluster, f"RayCluster of {ref.name}")
            case "Deployment":
                found = _of_deployment(live)
            case _:
                found = None
        if found is not None:
            yield found


def _of_job(job: Manifest, events: Sequence[Manifest]) -> Obstacle | None:
    """Return the newest event about a pod that could not be created."""
    uid = job["metadata"]["uid"]
    about = [e for e in events if e.get("reason") == _FAILED_CREATE and (e.get("regarding") or {}).get("uid") == uid]
    if not about:
        return None
    said = str(max(about, key=_when).get("note", "")).removeprefix(_AGGREGATED)
    return Reason.PODS_REFUSED, f"Job {job['metadata']['name']}: {said}"


def _when(event: Manifest) -> str:
    """Return the event's time as text: one format, so texts compare. The Job controller fills in the older fields."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return str(series or event.get("deprecatedLastTimestamp") or event.get("eventTime") or "")


def _of_deployment(deployment: Manifest) -> Obstacle | None:
    return _in_condition(deployment.get("status") or {}, f"Deployment {deployment['metadata']['name']}")


def _in_condition(status: Mapping[str, Any], what: str) -> Obstacle | None:
    """Return the refusal in a Deployment's or a RayCluster's conditions, which have the same form."""
    for one in status.get("conditions") or ():
        if one["type"] == "ReplicaFailure" and one["status"] == "True":
            return Reason.PODS_REFUSED, f"{what}: pods cannot be made: {one.get('message', '')}"
    return None


def _unschedulable(pod: Manifest) -> Obstacle | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Reason.UNSCHEDULABLE, str(condition.get("message", ""))
    return None


def _waiting(pod: Manifest) -> Obstacle | None:
    status = pod.get("status") or {}
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))
        if reason in _PULL:
            return Reason.IMAGE_PULL_FAILED, f"{reason}: {message or container.get('image', '')}"
        if reason in _BROKEN:
            last = ((container.get("lastState") or {}).get("terminated") or {}).get("message", "")
            return Reason.CLUSTER_STARTING, f"{reason}: {last or message}"
    return None
