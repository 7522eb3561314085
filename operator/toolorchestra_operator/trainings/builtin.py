"""The Builtin provider: a Ray cluster made of Jobs, for kind, small clusters and clusters without KubeRay.

A head Job of one pod (Ray's head and the driver), a headless Service by which the nodes find it, an Indexed Job of
trainer nodes and one of engine nodes, or one of nodes for both (`node_groups.py`). All are created once per attempt and
never changed. It supports neither Kueue nor elastic sizes. A node's container that dies is restarted in its pod; the
head's is not: the end of the head is the end of the attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from toolorchestra.contract.commands import HEAD_COMMAND, NODE_COMMAND
from toolorchestra.contract.exit_status import CANCELLED, KILLED, TRAINER_LOST
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.ownership import controller
from toolorchestra_operator.trainings.cluster_state import ClusterState, of_exit
from toolorchestra_operator.trainings.configuration import DRIVER_FILE
from toolorchestra_operator.trainings.desired import CONFIG_PATH, Desired
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.node_groups import ENGINES, ROLES, TRAINERS, NodeGroup, node_groups
from toolorchestra_operator.trainings.pods import (
    HEAD_GRACE_SECONDS,
    WORKER_GRACE_SECONDS,
    metrics_ports,
    nats_environment,
    pod,
    ray_environment,
    telemetry,
    variable,
)

GCS_PORT = 6379
HEAD: Final = "head"
SHARED_LABEL: Final = "toolorchestra.dev/shared-nodes"
"""On the trainers' Job if its nodes are also for engines; there is then no Job of engines."""
_JOBS: Final = (HEAD, ENGINES, TRAINERS)


def refs(names: TrainingNames, attempt: int) -> tuple[Ref, ...]:
    """Return all objects of an attempt to observe; they are deleted in this order when it is over."""
    jobs = [Ref("batch/v1", "Job", names.namespace, names.job(attempt, c)) for c in _JOBS]
    return (*jobs, Ref("v1", "Service", names.namespace, names.attempt(attempt)))


def compute(names: TrainingNames, attempt: int, *, failed: bool) -> tuple[Ref, ...]:
    """Return the objects that use compute. After a success the head has ended, and its log stays until the TTL."""
    head, engines, trainers, _ = refs(names, attempt)
    return (engines, trainers, head) if failed else (engines, trainers)


def manifests(desired: Desired, *, attempt: int) -> list[dict[str, Any]]:
    """Return the Service, then the Jobs. Trainers and engines wait for the head, so their order does not matter."""
    ray = desired.spec.ray
    head = NodeGroup(HEAD, (), 1, ray.head.resources)
    return [_service(desired, attempt), *(_job(desired, attempt, group) for group in (head, *node_groups(ray)))]


def ray_address(desired: Desired, *, attempt: int) -> str:
    """Return Ray's address for the driver, which runs in the head's pod."""
    return f"{desired.names.attempt(attempt)}.{desired.names.namespace}.svc:{GCS_PORT}"


def _service(desired: Desired, attempt: int) -> dict[str, Any]:
    names = desired.names
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": names.metadata(names.attempt(attempt), HEAD, attempt=attempt),
        "spec": {
            "clusterIP": "None",
            "selector": names.labels(HEAD, attempt=attempt),
            # The nodes join before the head is ready: the head's readiness depends on them.
            "publishNotReadyAddresses": True,
            "ports": [{"name": "gcs", "port": GCS_PORT, "targetPort": GCS_PORT, "protocol": "TCP"}],
        },
    }


def _job(desired: Desired, attempt: int, group: NodeGroup) -> dict[str, Any]:
    names, component, is_head = desired.names, group.component, group.component == HEAD
    spec: dict[str, Any] = {
        "completions": group.replicas,
        "parallelism": group.replicas,
        "completionMode": "Indexed",
        # The end of the head ends the attempt, and the operator counts. A node may die often: it joins again.
        "backoffLimit": 0 if is_head else 1000,
        "template": _pod(desired, attempt, group),
    }
    if is_head:
        spec["podReplacementPolicy"] = "Failed"
    shared = {SHARED_LABEL: "true"} if len(group.roles) > 1 else None
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": names.metadata(names.job(attempt, component), component, attempt=attempt, extra=shared),
        "spec": spec,
    }


def _pod(desired: Desired, attempt: int, group: NodeGroup) -> dict[str, Any]:
    component, is_head = group.component, group.component == HEAD
    env: list[Mapping[str, Any]] = [*ray_environment(desired)]
    if is_head:
        command = [*HEAD_COMMAND, "--config", f"{CONFIG_PATH}/{DRIVER_FILE}"]
        env += [*nats_environment(desired, desired.spec.messaging.controller_secret_ref, attempt=attempt)]
        env += telemetry(desired, service="toolorchestra-controller", scraped=True)
    else:
        service = f"{desired.names.attempt(attempt)}.{desired.names.namespace}.svc"
        command = [*NODE_COMMAND]
        command += [word for role in group.roles for word in ("--role", role)]
        command += ["--head", service]
        command += ["--gpus", str(group.gpus)] if group.gpus else []
        env += telemetry(desired, service=f"toolorchestra-{ROLES[component]}")
        env.append(variable("HF_HUB_OFFLINE", "1"))
    return pod(
        desired,
        component=component,
        attempt=attempt,
        image=desired.cluster_image,
        command=command,
        env=env,
        wanted=group.wanted,
        restart="Never" if is_head else "OnFailure",
        grace=HEAD_GRACE_SECONDS if is_head else WORKER_GRACE_SECONDS,
        storage=True,
        ports=metrics_ports(desired) if is_head else (),
    )


def state(
    names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest], pods: Sequence[Manifest]
) -> ClusterState:
    """Return the state of the attempt's cluster, from its Jobs and the head's pod."""
    head_ref, engines_ref, trainers_ref, _ = refs(names, attempt)
    head = objects.get(head_ref)
    if head is None:
        return ClusterState("Absent")
    if ended := _ended(head, pods, lost_trainers=_lost_pods(objects.get(trainers_ref))):
        return ended
    trainers = objects.get(trainers_ref)
    jobs = [trainers] if _is_shared(trainers) else [objects.get(engines_ref), trainers]
    waiting = [_waiting(job) for job in (head, *(job for job in jobs if job is not None))]
    if None in jobs or any(waiting):
        return ClusterState("Starting", message=", ".join(filter(None, waiting)) or "its Jobs are being made")
    return ClusterState("Up", message="head, trainers and engines run")


def begun(names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest]) -> datetime | None:
    """Return when its head was created."""
    head = objects.get(refs(names, attempt)[0])
    return None if head is None else datetime.fromisoformat(head["metadata"]["creationTimestamp"])


def _is_shared(trainers: Manifest | None) -> bool:
    labels = (trainers or {}).get("metadata", {}).get("labels") or {}
    return labels.get(SHARED_LABEL) == "true"


def _waiting(job: Manifest) -> str:
    """Return what of a Job is not ready, as text; empty: all pods are ready."""
    wanted, ready = job["spec"].get("parallelism", 1), (job.get("status") or {}).get("ready", 0)
    component = job["metadata"]["labels"]["app.kubernetes.io/component"]
    return "" if ready >= wanted else f"{component}: {ready} of {wanted} ready"


def _lost_pods(job: Manifest | None) -> int:
    """Return the number of pods that were deleted, evicted, or lost with their node (a container that ends is restarted
    in its pod)."""
    return 0 if job is None else int((job.get("status") or {}).get("failed", 0))


def _ended(head: Manifest, pods: Sequence[Manifest], *, lost_trainers: int) -> ClusterState | None:
    """Return how the attempt ended, from the pod that the head's Job created, and from no other pod."""
    conditions = {c["type"] for c in (head.get("status") or {}).get("conditions") or () if c["status"] == "True"}
    if not conditions & {"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"}:
        return None
    for one in pods:
        if controller(one).get("uid") == head["metadata"]["uid"] and (found := _terminated(one)) is not None:
            code, message = found
            taken = (code == TRAINER_LOST and lost_trainers) or (code == KILLED and _is_disrupted(one))
            return of_exit(CANCELLED if taken else code, message=message)
    if conditions & {"Complete", "SuccessCriteriaMet"}:
        return of_exit(0, message="")
    # There is no pod to read: its node is gone, or it was evicted. That counts as no failure.
    return of_exit(CANCELLED, message="the head's pod is gone")


def _terminated(one: Manifest) -> tuple[int, str] | None:
    """Return exit status and last message of the head's container; containers that a mesh adds are ignored."""
    for container in (one.get("status") or {}).get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated")
        if ended and container["name"] == HEAD:
            return int(ended["exitCode"]), str(ended.get("message", ""))
    return None


def _is_disrupted(one: Manifest) -> bool:
    """Return whether Kubernetes ended the pod: a node under pressure kills without a signal to the program."""
    conditions = (one.get("status") or {}).get("conditions") or ()
    return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions)
