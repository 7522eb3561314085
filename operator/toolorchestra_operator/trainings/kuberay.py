"""The KubeRay provider: one RayJob per attempt. KubeRay starts Ray in its pods and the driver in the head's.

Invariants
- Created once, never written again: KubeRay ignores most edits, and Kueue owns what it adds (`suspend`, selectors).
- KubeRay deletes what has ended (`shutdownAfterJobFinishes`) and decides nothing else: the operator handles deadlines,
  attempts and the TTL, so `backoffLimit` is 0, and the RayJob has no deadline and no deletion rule.
- The pods have the same images, variables, volumes and resources as those of the Builtin provider.

KubeRay's operator submits the driver over HTTP (`HTTPMode`): a submitter's pod could be lost too, and KubeRay's sidecar
has no security context, which restricted pod security refuses. Ray runs the driver in the head's container and gives it
3 seconds to end, or none if the pod is deleted: hence `RAY_JOB_STOP_WAIT_TIME_S` and the `preStop` hooks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from toolorchestra.api.base import Resources
from toolorchestra.contract.commands import DRIVER_COMMAND, PRE_STOP_COMMAND
from toolorchestra.contract.labels import ATTEMPT_LABEL
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.trainings.builtin import GCS_PORT, HEAD
from toolorchestra_operator.trainings.cluster_state import ClusterState
from toolorchestra_operator.trainings.configuration import DRIVER_FILE
from toolorchestra_operator.trainings.desired import CONFIG_PATH, Desired
from toolorchestra_operator.trainings.job_state import of_job
from toolorchestra_operator.trainings.kueue import QUEUE_LABEL, queue_labels
from toolorchestra_operator.trainings.names import Component, TrainingNames
from toolorchestra_operator.trainings.node_groups import ROLES, TRAINERS, NodeGroup, node_groups
from toolorchestra_operator.trainings.pods import (
    HEAD_GRACE_SECONDS,
    metrics_ports,
    nats_environment,
    pod,
    ray_environment,
    telemetry,
    variable,
)

RAY_VERSION: Final = "2.60.0"
"""Ray's version in the images' locks (a test compares the two)."""
DASHBOARD_PORT: Final = 8265
AGENT_PORT: Final = 52365
HEALTH_PATH: Final = "/api/healthz"
"""Health path of Ray's agent on every node, without a token: the raylet's health, on the head also the GCS's."""
HEAD_OBJECT_STORE_BYTES: Final = 256 * 1024**2
DASHBOARD_START_SECONDS: Final = 300
_DASHBOARD_PATIENCE: Final = ("RAY_DASHBOARD_STARTUP_TIMEOUT_S", "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT")
"""Ray ends a head whose dashboard is not up within 60 and 30 s, which is too short for a busy node without GPUs."""
LEAST_TTL_SECONDS: Final = 60
"""The shortest time that a RayJob stays after its end, whatever else KubeRay deletes: its status says how it ended."""
_BEFORE: Final = ("", "Suspended", "Suspending")
"""Deployment statuses in which `startTime` belongs to an earlier run, or to none."""


def refs(names: TrainingNames, attempt: int) -> tuple[Ref, ...]:
    """Return the RayJob, which owns everything else."""
    return (Ref(*RAY_JOB, names.namespace, names.attempt(attempt)),)


def compute(names: TrainingNames, attempt: int, *, failed: bool) -> tuple[Ref, ...]:
    """Return the RayJob: logs are in storage, and the training's status says how it ended."""
    return refs(names, attempt)


def ray_address(desired: Desired, *, attempt: int) -> str:
    """Return Ray's address; Ray passes it as RAY_ADDRESS to the driver, which runs on the head."""
    return "auto"


def manifests(desired: Desired, *, attempt: int) -> list[dict[str, Any]]:
    """Return the RayJob; if a queue decides, it is suspended from the start."""
    names, ray, queue = desired.names, desired.spec.ray, queue_labels(desired.spec.queue_name)
    job: dict[str, Any] = {
        "entrypoint": f"exec {' '.join(DRIVER_COMMAND)} --config {CONFIG_PATH}/{DRIVER_FILE}",
        "submissionMode": "HTTPMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": max(LEAST_TTL_SECONDS, desired.spec.keep_failed_seconds),
        "backoffLimit": 0,
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,  # without it KubeRay refuses the token
            # Without it KubeRay's operator sends no token, and the dashboard refuses it.
            "authOptions": {"mode": "token", "secretName": names.ray_token},
            "headGroupSpec": _head(desired, attempt),
            "workerGroupSpecs": [_workers(desired, attempt, group) for group in node_groups(ray)],
        },
    }
    if queue:
        job["suspend"] = True
    api_version, kind = RAY_JOB
    metadata = names.metadata(names.attempt(attempt), "ray", attempt=attempt, extra=queue)
    return [{"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": job}]


def _head(desired: Desired, attempt: int) -> dict[str, Any]:
    """Return the head group, without resources for actors: the driver runs beside it."""
    env = [
        *nats_environment(desired, desired.spec.messaging.controller_secret_ref, attempt=attempt),
        *telemetry(desired, service="toolorchestra-controller", scraped=True),
        variable("RAY_JOB_STOP_WAIT_TIME_S", str(HEAD_GRACE_SECONDS)),
        *(variable(name, str(DASHBOARD_START_SECONDS)) for name in _DASHBOARD_PATIENCE),
    ]
    parameters = {
        "num-cpus": "0",
        "object-store-memory": str(HEAD_OBJECT_STORE_BYTES),
        "include-dashboard": "true",
        "disable-usage-stats": "true",
    }
    ports = (
        {"name": "gcs-server", "containerPort": GCS_PORT},
        {"name": "dashboard", "containerPort": DASHBOARD_PORT},
        *metrics_ports(desired),
    )
    wanted = desired.spec.ray.head.resources
    template = _pod(desired, attempt, HEAD, env=env, wanted=wanted, role="head", ports=ports)
    return {"rayStartParams": parameters, "template": template}


def _workers(desired: Desired, attempt: int, group: NodeGroup) -> dict[str, Any]:
    """Return a group of nodes, each with resources for one actor of each of its roles."""
    component = group.component
    env = [*telemetry(desired, service=f"toolorchestra-{ROLES[component]}"), variable("HF_HUB_OFFLINE", "1")]
    # KubeRay puts the value unquoted into a shell's command line.
    told = {"num-cpus": str(len(group.roles)), "resources": f"'{json.dumps(group.resources)}'"}
    if group.gpus:
        told["num-gpus"] = str(group.gpus)  # KubeRay reads limits itself, and knows fewer names
    parameters = told | {"disable-usage-stats": "true"}
    return {
        "groupName": component,
        "replicas": group.replicas,
        "minReplicas": group.replicas,
        "maxReplicas": group.replicas,
        "rayStartParams": parameters,
        "template": _pod(desired, attempt, component, env=env, wanted=group.wanted, role="node"),
    }


def _pod(
    desired: Desired,
    attempt: int,
    component: Component,
    *,
    env: Sequence[Mapping[str, Any]],
    wanted: Resources,
    role: str,
    ports: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the Builtin provider's pod, but with KubeRay's command. All pods end as late as the head does."""
    template = pod(
        desired,
        component=component,
        attempt=attempt,
        image=desired.cluster_image,
        command=(),
        env=[*ray_environment(desired), *env],
        wanted=wanted,
        restart="Never" if component == HEAD else "OnFailure",
        grace=HEAD_GRACE_SECONDS,
        storage=True,
        ports=ports,
    )
    # KubeRay's head Service selects its own value.
    del template["metadata"]["labels"]["app.kubernetes.io/name"]
    (container,) = template["spec"]["containers"]
    del container["command"]
    container["lifecycle"] = {"preStop": {"exec": {"command": [*PRE_STOP_COMMAND, role]}}}
    # KubeRay's own probes need `wget` in the image if it does not know the version of Ray.
    ask = {"httpGet": {"path": HEALTH_PATH, "port": AGENT_PORT}, "periodSeconds": 5, "timeoutSeconds": 5}
    container["readinessProbe"] = {**ask, "failureThreshold": 10}
    container["livenessProbe"] = {**ask, "initialDelaySeconds": 30, "failureThreshold": 120}
    return template


def state(
    names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest], pods: Sequence[Manifest]
) -> ClusterState:
    """Return the state of the attempt's RayJob."""
    job = objects.get(refs(names, attempt)[0])
    if job is None:
        return ClusterState("Absent")
    return of_job(job, [one for one in pods if _is_trainer(one, attempt)])


def _is_trainer(one: Manifest, attempt: int) -> bool:
    labels = one["metadata"].get("labels") or {}
    return labels.get(ATTEMPT_LABEL) == str(attempt) and labels.get("app.kubernetes.io/component") == TRAINERS


def begun(names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest]) -> datetime | None:
    """Return when KubeRay started its current run. None while it is suspended: time in a queue does not count."""
    job = objects.get(refs(names, attempt)[0])
    if job is None or job["spec"].get("suspend"):
        return None
    status: Manifest = job.get("status") or {}
    started = status.get("startTime")
    if started is not None and status.get("jobDeploymentStatus", "") not in _BEFORE:
        return datetime.fromisoformat(started)
    if QUEUE_LABEL in (job["metadata"].get("labels") or {}):
        return None
    return datetime.fromisoformat(job["metadata"]["creationTimestamp"])
