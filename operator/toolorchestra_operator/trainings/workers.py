"""The rollout workers: a Deployment without torch, Ray, or the checkpoints' volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolorchestra.api.base import Resources
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.recorded import digest, record, recorded
from toolorchestra_operator.trainings.configuration import RESOURCES_FILE
from toolorchestra_operator.trainings.desired import CONFIG_PATH, Desired
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.pods import (
    WORKER_GRACE_SECONDS,
    key_environment,
    nats_environment,
    pod,
    telemetry,
    variable,
)

GRACE_MARGIN_SECONDS = 10
"""Seconds between the end of the episodes' grace and the end of the pod's."""
_HEARTBEAT_FILE = "/tmp/heartbeat"
_STALL_SECONDS = 90
"""More than the worker's own watchdog allows (60 s), which reports where it stopped; this one works without it."""
_LIVENESS = {
    "exec": {
        # A shell, because an interpreter every half minute would cost too much. No file: it has not begun to work.
        "command": [
            *("sh", "-c"),
            f"test ! -e {_HEARTBEAT_FILE} || "
            f"test $(($(date +%s) - $(stat -c %Y {_HEARTBEAT_FILE}))) -lt {_STALL_SECONDS}",
        ]
    },
    "initialDelaySeconds": 60,
    "periodSeconds": 30,
    "timeoutSeconds": 10,
    "failureThreshold": 2,
}


def ref(names: TrainingNames) -> Ref:
    """The Deployment."""
    return Ref("apps/v1", "Deployment", names.namespace, names.workers)


def deployment(
    desired: Desired, pools: Sequence[ExpertPool], *, attempt: int, replicas: int, live: Manifest | None = None
) -> dict[str, Any]:
    """Return the Deployment. `replicas` is 0 until the cluster is admitted. It rolls with the attempt, whose
    configuration it reads, and when the spec's fields about workers change; not when this operator would build its pods
    differently than the operator that made `live`."""
    names, inputs = desired.names, _inputs(desired, attempt=attempt)
    template = recorded(live, inputs=inputs) or _template(desired, pools, attempt=attempt)
    metadata = names.metadata(names.workers, "workers")
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**metadata, "annotations": record(template, inputs=inputs)},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": names.labels("workers")},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}},
            "template": template,
        },
    }


def _inputs(desired: Desired, *, attempt: int) -> str:
    """Return the digest of the template's inputs, without defaults, so that a default of a later release is no
    change."""
    rollout = desired.spec.rollout.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"workers"})
    return digest([attempt, rollout])


def _template(desired: Desired, pools: Sequence[ExpertPool], *, attempt: int) -> dict[str, Any]:
    names, rollout = desired.names, desired.spec.rollout
    return pod(
        desired,
        component="workers",
        attempt=attempt,
        image=desired.runtime.worker_image,
        command=[
            *("orchestra", "worker", "--uid", names.short_uid),
            *("--resources", f"{CONFIG_PATH}/{RESOURCES_FILE}", "--model", desired.model_dir),
            *("--concurrency", str(rollout.concurrency_per_worker)),
            *("--grace", str(WORKER_GRACE_SECONDS - GRACE_MARGIN_SECONDS)),
            *("--heartbeat", _HEARTBEAT_FILE),
        ],
        env=[
            variable("HOME", "/tmp"),
            *nats_environment(desired, desired.spec.messaging.worker_secret_ref, attempt=attempt),
            *key_environment(pools),
            *telemetry(desired, service="toolorchestra-worker"),
        ],
        wanted=rollout.resources or Resources(),
        restart="Always",
        grace=WORKER_GRACE_SECONDS,
        storage=False,
        liveness=_LIVENESS,
    )
