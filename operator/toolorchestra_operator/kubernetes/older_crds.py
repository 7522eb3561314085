"""Changes a status to what older CRDs accept: those of the release that listed every reason. Pure.

`helm upgrade` installs both; with `crds.enabled=false`, or with CRDs that somebody else manages, the operator may be
newer. Such CRDs refuse the whole status because of one unknown word, and nothing would be reported. Later CRDs accept
any word.
"""

from __future__ import annotations

from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.manifest import Manifest

_REASONS: Final = """
    Accepted InvalidSpec InvalidPodTemplate NoExpertsMatch PoolNotFound SecretNotFound ConfigMapNotFound ClaimNotFound
    StorageClassNotFound Forbidden NameTaken RayProviderUnavailable QuotaReserved QuotaPending QuotaUnknown NoQueue
    Preempted StreamsReady StreamsPending MessagingUnreachable ExpertsReady ExpertsUnavailable ClusterStarting
    ClusterReady Unschedulable ImagePullFailed StartDeadlineExceeded ActiveDeadlineExceeded Training WarmStarting
    Evaluating Restarting StepsDone SpendCapReached FailureRateExceeded GroupsExhausted OutputsUnreadable NothingLearned
    ExpertMisconfigured ExpertOut StepsNotFinite ModelRefused BackoffLimitExceeded ProgramFailed ClusterRefused
    SuspendedByUser NotSuspended RollingOut RolledOut MinimumAvailable BelowMinimum ReplicasMissing AllReplicasReady
    ScaledToZero ProbeAnswered ProbeFailed ProbeDisabled ProbePending WrongModelServed Ready NotReady
"""
_TYPES: Final = """
    Accepted Progressing Available Degraded Routable Ready
    QuotaReserved MessagingReady ExpertsReady ClusterReady Running Complete Failed Suspended
"""
REASONS: Final = frozenset(_REASONS.split())
TYPES: Final = frozenset(_TYPES.split())


def reworded(status: Manifest) -> dict[str, Any]:
    """Return the status with a known reason for each new one, which then starts the message; without conditions of a
    new type."""
    conditions = [_reworded(one) for one in status.get("conditions") or () if one["type"] in TYPES]
    return {**status, "conditions": conditions}


def _reworded(one: Manifest) -> Manifest:
    if one["reason"] in REASONS:
        return one
    known = Reason.INVALID_SPEC if one["type"] == "Accepted" else Reason.NOT_READY
    return {**one, "reason": str(known), "message": f"{one['reason']}: {one.get('message', '')}".rstrip(": ")}
