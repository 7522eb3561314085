"""Quota by Kueue: what a training's RayJob carries for it, and what is reported while it waits. Pure.

The operator writes only the label and `suspend: true`, at creation. Kueue sees the RayJob, creates a Workload for it,
and clears `suspend` when it admits it. It sets `suspend` again to take the quota back, which is no failure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.trainings.decision import Aspect

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
JOB_UID_LABEL: Final = "kueue.x-k8s.io/job-uid"
"""Label of a Workload: the UID of the job that it was created for."""
PATIENCE_SECONDS: Final = 60
"""Seconds after which a RayJob without a Workload is not managed by any Kueue."""


def queue_labels(queue: str | None) -> dict[str, str]:
    """Return the queue label of a RayJob; empty if no queue is named."""
    return {} if queue is None else {QUEUE_LABEL: queue}


@dataclass(frozen=True)
class Quota:
    """The quota of an attempt. `reserved`: it may use compute. `preempted`: it used compute before, and may not now."""

    reserved: bool
    aspect: Aspect
    preempted: bool = False


def quota(
    queue: str | None, job: Manifest | None, workloads: Sequence[Manifest] | None, *, ran: bool, now: datetime
) -> Quota:
    """Return the quota of an attempt's RayJob; `workloads` are those of the RayJob, None if Kueue is not installed.

    `ran`: the attempt's driver has reported, so that a RayJob which is suspended now was admitted before.
    """
    if queue is None:
        return Quota(True, ("True", Reason.NO_QUEUE, ""))
    if job is None:
        return Quota(False, ("False", Reason.QUOTA_PENDING, f"queue {queue}: its RayJob is about to be made"))
    if not job["spec"].get("suspend"):
        return Quota(True, ("True", Reason.QUOTA_RESERVED, f"admitted by queue {queue}"))
    if workloads is None:
        said = f"spec.queueName is {queue}, and there is no Kueue in this cluster (its Workloads are not served)"
        return Quota(False, ("Unknown", Reason.QUOTA_UNKNOWN, f"{said}: nothing is started"), ran)
    if workloads:
        conditions = {one["type"]: one for one in (workloads[0].get("status") or {}).get("conditions") or ()}
        preempted = ran or _is(conditions, "Evicted", "True")
        said = ": ".join(filter(None, (f"queue {queue}", _why(conditions))))
        return Quota(False, ("False", Reason.PREEMPTED if preempted else Reason.QUOTA_PENDING, said), preempted)
    if now - datetime.fromisoformat(job["metadata"]["creationTimestamp"]) > timedelta(seconds=PATIENCE_SECONDS):
        said = f"Kueue made no Workload for RayJob {job['metadata']['name']} within {PATIENCE_SECONDS} seconds"
        remedy = "is its integration ray.io/rayjob on, and does its configuration take this namespace in?"
        return Quota(False, ("Unknown", Reason.QUOTA_UNKNOWN, f"{said}: {remedy}"), ran)
    return Quota(False, ("False", Reason.QUOTA_PENDING, f"queue {queue}: Kueue has not seen it yet"), ran)


def _is(conditions: Mapping[str, Mapping[str, Any]], kind: str, status: str) -> bool:
    return kind in conditions and conditions[kind]["status"] == status


def _why(conditions: Mapping[str, Mapping[str, Any]]) -> str:
    """Return Kueue's own message, from the condition that explains the wait."""
    telling = (("QuotaReserved", "False"), ("Evicted", "True"), ("Admitted", "False"), ("QuotaReserved", "True"))
    found = (conditions[kind] for kind, status in telling if _is(conditions, kind, status))
    return next((str(one.get("message", "")) for one in found), "")
