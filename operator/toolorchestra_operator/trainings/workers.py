"""The rollout workers: a Deployment without torch, Ray, or the checkpoints' volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolorchestra.api.base import Resources
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.trainings.configuration import RESOURCES_FILE
from toolorchestra_operator.trainings.desired import CONFIG_PATH, Desired
from toolorchestra_operator.trainings.pods import (
    WORKER_GRACE_SECONDS,
    key_environment,
    nats_environment,
    pod,
    telemetry,
    variable,
)

GRACE_MARGIN_SECONDS = 10
"""Between the end of the episodes' grace and the pod's."""


def deployment(desired: Desired, pools: Sequence[ExpertPool], *, attempt: int, replicas: int) -> dict[str, Any]:
    """`replicas` 0 until the cluster is admitted. Rolled with the attempt, whose configuration it reads."""
    names, rollout = desired.names, desired.spec.rollout
    template = pod(
        desired,
        component="workers",
        attempt=attempt,
        image=desired.runtime.worker_image,
        command=[
            *("orchestra", "worker", "--uid", names.short_uid),
            *("--resources", f"{CONFIG_PATH}/{RESOURCES_FILE}", "--model", desired.model_dir),
            *("--concurrency", str(rollout.concurrency_per_worker)),
            *("--grace", str(WORKER_GRACE_SECONDS - GRACE_MARGIN_SECONDS)),
        ],
        env=[
            variable("HOME", "/tmp"),
            *nats_environment(desired, desired.spec.messaging.worker_secret_ref),
            *key_environment(pools),
            *telemetry(desired, service="toolorchestra-worker"),
        ],
        wanted=Resources(),
        restart="Always",
        grace=WORKER_GRACE_SECONDS,
        storage=False,
    )
    selector = names.labels("workers")
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": names.metadata(names.workers, "workers"),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}},
            "template": template,
        },
    }
