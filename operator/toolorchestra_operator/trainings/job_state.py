"""Translates a RayJob's status: one table over `jobDeploymentStatus`, `jobStatus` and `reason`.

Source: ray-operator/apis/ray/v1/rayjob_types.go and controllers/ray/rayjob_controller.go of KubeRay 1.6 and 1.7;
jobStatus is Ray's own (ray.job_submission.JobStatus). A status that is not in the table is reported as it is: one that
may still change is waited for, one that has ended counts as a failure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from toolorchestra.api.conditions import Reason
from toolorchestra.contract.exit_status import TRAINER_LOST
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.trainings.cluster_state import ClusterState, Life, of_exit

ANY: Final = "*"
MOST_WORDS: Final = 3000
"""Most characters that are kept of KubeRay's and the program's messages: the end, which has the error."""


@dataclass(frozen=True)
class Row:
    """A row of the table; the first that fits is used. `ByExit`: the driver's exit status in the message decides."""

    deployment: str
    job: str
    reason: str
    life: Life | Literal["ByExit"]
    says: str

    def fits(self, deployment: str, job: str, reason: str) -> bool:
        pairs = ((self.deployment, deployment), (self.job, job), (self.reason, reason))
        return all(wanted in (ANY, found) for wanted, found in pairs)


TABLE: Final[tuple[Row, ...]] = (
    # The program's result is final, whatever KubeRay makes of it. A driver that is suspended too late is done.
    Row(ANY, "SUCCEEDED", ANY, "Succeeded", "all steps are done"),
    # Suspension: by Kueue, or by hand.
    Row("Suspending", ANY, ANY, "Queued", "its pods are ending"),
    Row("Suspended", ANY, ANY, "Queued", "it has no pods"),
    # While starting.
    Row("", ANY, ANY, "Starting", "KubeRay has not taken it up"),
    Row("Initializing", ANY, ANY, "Starting", "its RayCluster is coming up"),
    Row("Waiting", ANY, ANY, "Starting", "KubeRay waits for a Ray job that nobody submits"),
    Row("Retrying", ANY, ANY, "Starting", "KubeRay makes its RayCluster again"),
    Row("Running", "", ANY, "Starting", "the driver is being submitted"),
    Row("Running", "PENDING", ANY, "Starting", "the driver is about to start"),
    Row("Running", "RUNNING", ANY, "Up", "head, trainers and engines run"),
    # How the program ended; KubeRay may be some seconds behind.
    Row("Running", "FAILED", ANY, "ByExit", ""),
    Row("Complete", "FAILED", ANY, "ByExit", ""),
    Row("Failed", "FAILED", "AppFailed", "ByExit", ""),
    Row("Failed", "FAILED", "JobDeploymentStatusTransitionGracePeriodExceeded", "ByExit", ""),
    Row(ANY, "STOPPED", ANY, "Stopped", "its Ray job was stopped"),
    # KubeRay gave up without a result of the program. A head that existed and is lost counts as no failure.
    Row("Failed", "RUNNING", "JobStatusCheckTimeoutExceeded", "Stopped", "the head does not answer any more"),
    Row("Failed", ANY, "JobStatusCheckTimeoutExceeded", "Failed", "KubeRay's operator never reached the head"),
    Row("Failed", ANY, "AppFailed", "Stopped", "the head is gone"),
    Row("Failed", ANY, "SubmissionFailed", "Failed", "the driver could not be submitted"),
    Row("Failed", ANY, "DeadlineExceeded", "Failed", "a deadline passed that somebody else set on it"),
    Row("Failed", ANY, "PreRunningDeadlineExceeded", "Failed", "a deadline passed that somebody else set on it"),
    Row("Failed", ANY, "JobDeploymentStatusTransitionGracePeriodExceeded", "Failed", "nobody knows how it ended"),
    Row("ValidationFailed", ANY, ANY, "Refused", "KubeRay refuses it"),
)
_ENDED: Final = ("Complete", "Failed")
_EXIT: Final = re.compile(r"failed with exit code (-?\d+)")
_NODE_DIED: Final = "its node has died"
"""Ray, of an actor (GcsActorManager)."""


def of_status(status: Manifest) -> ClusterState:
    """Translate `status` of a RayJob. Pure; a test covers every row of the table."""
    deployment, job = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    reason, words = status.get("reason", ""), str(status.get("message", ""))
    row = next((row for row in TABLE if row.fits(deployment, job, reason)), None)
    if row is None:
        said = f"KubeRay says {deployment or 'nothing'}, {job or 'no job status'}"
        said += f", {reason}" if reason else ""
        unknown: Life = "Failed" if deployment in _ENDED else "Starting"
        row = Row(deployment, job, reason, unknown, f"{said}: that is not known here")
    if row.life == "ByExit":
        return _by_exit(words)
    said = ": ".join(filter(None, (row.says, words[-MOST_WORDS:])))
    return ClusterState(row.life, _REASONS.get(row.life, Reason.CLUSTER_STARTING), said)


_REASONS: Final[dict[Life, Reason]] = {
    "Up": Reason.CLUSTER_READY,
    "Succeeded": Reason.STEPS_DONE,
    "Failed": Reason.PROGRAM_FAILED,
    "Refused": Reason.CLUSTER_REFUSED,
    "Stopped": Reason.RESTARTING,
}


def _by_exit(words: str) -> ClusterState:
    """Return the end by the exit status of the entrypoint, which Ray's message has before the end of its output."""
    found = _EXIT.search(words)
    if found is None:
        return of_exit(None, message=words[-MOST_WORDS:])
    code = int(found[1])
    # Killed by a signal: the status is the one that a shell would report.
    return of_exit(code if code >= 0 else 128 - code, message=words.partition(":\n")[2].strip()[-MOST_WORDS:])


def of_job(job: Manifest, trainers: Sequence[Manifest]) -> ClusterState:
    """Return the state of a live RayJob; `trainers` are the attempt's trainer pods, if they were listed."""
    status: Manifest = job.get("status") or {}
    state = of_status(status)
    if state.ended:
        return _node_loss(state, status, trainers)
    if job["spec"].get("suspend"):
        return ClusterState("Queued", message=state.message if state.life == "Queued" else "it is suspended")
    if state.life == "Up" and (missing := _missing(status)):
        return ClusterState("Starting", message=missing)
    return state


def _node_loss(state: ClusterState, status: Manifest, trainers: Sequence[Manifest]) -> ClusterState:
    """Treat a trainer that was lost with its node as no failure; if its own container ended, it is one."""
    words = str(status.get("message", ""))
    code = _EXIT.search(words)
    if state.life != "Failed" or code is None or int(code[1]) != TRAINER_LOST or any(map(_broke, trainers)):
        return state
    if _NODE_DIED not in words and not _missing(status):
        return state
    return replace(state, life="Stopped", reason=Reason.RESTARTING, message=f"a node was lost: {state.message}")


def _broke(pod: Manifest) -> bool:
    """Return whether a container ended by itself: out of memory, or with an error."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    ends = [(one.get(when) or {}).get("terminated") for one in containers for when in ("state", "lastState")]
    return any(end is not None and end.get("exitCode") not in (0, 143) for end in ends)


def _missing(status: Manifest) -> str:
    """Return what of the trainers and engines is not ready; empty: all are ready, or there is no count."""
    cluster: dict[str, Any] = dict(status.get("rayClusterStatus") or {})
    wanted, ready = cluster.get("desiredWorkerReplicas", 0), cluster.get("readyWorkerReplicas", 0)
    return "" if ready >= wanted else f"trainers and engines: {ready} of {wanted} ready"
