"""Conditions of both kinds, and the one closed list of their reasons (the docs' table is made from it)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from toolorchestra.api.base import Model
from toolorchestra.api.scalars import NonNegative

PoolConditionType = Literal["Accepted", "Progressing", "Available", "Degraded", "Routable", "Ready"]
TrainingConditionType = Literal[
    "Accepted",
    "QuotaReserved",
    "MessagingReady",
    "ExpertsReady",
    "ClusterReady",
    "Running",
    "Complete",
    "Failed",
    "Suspended",
]

TRAINING_CONDITION_ORDER: tuple[TrainingConditionType, ...] = (
    "Failed",
    "Complete",
    "Suspended",
    "Running",
    "ClusterReady",
    "ExpertsReady",
    "MessagingReady",
    "QuotaReserved",
    "Accepted",
)
"""Order in which a training's conditions are written, the most telling first: the Status column of `kubectl get` shows
the first one that is True, so there is no phase to keep."""

CONDITION_LIST: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class Reason(StrEnum):
    """Why a condition has its status. Closed: a reason that is not here cannot be written."""

    ACCEPTED = "Accepted"
    INVALID_SPEC = "InvalidSpec"
    INVALID_POD_TEMPLATE = "InvalidPodTemplate"
    NO_EXPERTS_MATCH = "NoExpertsMatch"
    POOL_NOT_FOUND = "PoolNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    STORAGE_CLASS_NOT_FOUND = "StorageClassNotFound"
    FORBIDDEN = "Forbidden"
    NAME_TAKEN = "NameTaken"
    RAY_PROVIDER_UNAVAILABLE = "RayProviderUnavailable"
    QUOTA_RESERVED = "QuotaReserved"
    QUOTA_PENDING = "QuotaPending"
    QUOTA_UNKNOWN = "QuotaUnknown"
    NO_QUEUE = "NoQueue"
    PREEMPTED = "Preempted"
    STREAMS_READY = "StreamsReady"
    MESSAGING_UNREACHABLE = "MessagingUnreachable"
    EXPERTS_READY = "ExpertsReady"
    EXPERTS_UNAVAILABLE = "ExpertsUnavailable"
    CLUSTER_STARTING = "ClusterStarting"
    CLUSTER_READY = "ClusterReady"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    START_DEADLINE_EXCEEDED = "StartDeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"
    TRAINING = "Training"
    WARM_STARTING = "WarmStarting"
    EVALUATING = "Evaluating"
    RESTARTING = "Restarting"
    STEPS_DONE = "StepsDone"
    SPEND_CAP_REACHED = "SpendCapReached"
    FAILURE_RATE_EXCEEDED = "FailureRateExceeded"
    GROUPS_EXHAUSTED = "GroupsExhausted"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    PROGRAM_FAILED = "ProgramFailed"
    SUSPENDED_BY_USER = "SuspendedByUser"
    NOT_SUSPENDED = "NotSuspended"
    ROLLING_OUT = "RollingOut"
    ROLLED_OUT = "RolledOut"
    MINIMUM_AVAILABLE = "MinimumAvailable"
    BELOW_MINIMUM = "BelowMinimum"
    REPLICAS_MISSING = "ReplicasMissing"
    ALL_REPLICAS_READY = "AllReplicasReady"
    SCALED_TO_ZERO = "ScaledToZero"
    PROBE_ANSWERED = "ProbeAnswered"
    PROBE_FAILED = "ProbeFailed"
    PROBE_DISABLED = "ProbeDisabled"
    PROBE_PENDING = "ProbePending"
    WRONG_MODEL_SERVED = "WrongModelServed"
    READY = "Ready"
    NOT_READY = "NotReady"

    @property
    def meaning(self) -> str:
        """One line for the docs' table."""
        return _MEANINGS[self]


_MEANINGS: dict[Reason, str] = {
    Reason.ACCEPTED: "The resource can work as written.",
    Reason.INVALID_SPEC: "A field cannot work as written; the message says which and what would.",
    Reason.INVALID_POD_TEMPLATE: "The pod template overlay sets what the operator owns, or is no pod template.",
    Reason.NO_EXPERTS_MATCH: "The selector matches no ExpertPool in the namespace; the message lists the pools.",
    Reason.POOL_NOT_FOUND: "A pool that is named does not exist.",
    Reason.SECRET_NOT_FOUND: "A Secret, or a key of it, that is referred to does not exist.",
    Reason.CONFIG_MAP_NOT_FOUND: "A ConfigMap, or a key of it, that is referred to does not exist.",
    Reason.CLAIM_NOT_FOUND: "A PersistentVolumeClaim that is referred to does not exist.",
    Reason.STORAGE_CLASS_NOT_FOUND: "A storage class that is named does not exist.",
    Reason.FORBIDDEN: "The API server refused the operator; the message names verb and resource.",
    Reason.NAME_TAKEN: "An object of a name that the operator needs is there and belongs to another.",
    Reason.RAY_PROVIDER_UNAVAILABLE: "The Ray provider that is asked for is not installed.",
    Reason.QUOTA_RESERVED: "The queue admitted the training, or none is asked for.",
    Reason.QUOTA_PENDING: "The queue has not admitted the training yet.",
    Reason.QUOTA_UNKNOWN: "A queue is named, but nothing answers for it (is Kueue installed?).",
    Reason.NO_QUEUE: "No queue is named; quota is not awaited.",
    Reason.PREEMPTED: "The queue took the quota back; training goes on from the last checkpoint.",
    Reason.STREAMS_READY: "Streams, consumers and buckets of the training exist.",
    Reason.MESSAGING_UNREACHABLE: "NATS cannot be reached or refuses the credentials.",
    Reason.EXPERTS_READY: "Every expert that the training uses is ready.",
    Reason.EXPERTS_UNAVAILABLE: "Some experts are out; their episodes are deferred.",
    Reason.CLUSTER_STARTING: "The Ray cluster is coming up.",
    Reason.CLUSTER_READY: "Head, trainers and engines are up.",
    Reason.UNSCHEDULABLE: "A pod finds no node; the scheduler's words are in the message.",
    Reason.IMAGE_PULL_FAILED: "An image cannot be pulled.",
    Reason.START_DEADLINE_EXCEEDED: "No first step within startDeadlineSeconds; everything was given back.",
    Reason.ACTIVE_DEADLINE_EXCEEDED: "activeDeadlineSeconds has passed.",
    Reason.TRAINING: "Steps are being made.",
    Reason.WARM_STARTING: "The supervised steps before RL are being made.",
    Reason.EVALUATING: "A suite is being run.",
    Reason.RESTARTING: "The program failed and starts again from the last checkpoint.",
    Reason.STEPS_DONE: "All steps are done and the model is exported.",
    Reason.SPEND_CAP_REACHED: "limits.maxSpendUSD is reached; raise it to go on.",
    Reason.FAILURE_RATE_EXCEEDED: "Too many episodes ended in failures of infrastructure; the run is paused.",
    Reason.GROUPS_EXHAUSTED: "The filters left too few groups, and the refill limit is reached.",
    Reason.BACKOFF_LIMIT_EXCEEDED: "The program failed more than backoffLimit times.",
    Reason.PROGRAM_FAILED: "The program failed; the last error is in the message.",
    Reason.SUSPENDED_BY_USER: "suspend is true.",
    Reason.NOT_SUSPENDED: "suspend is false.",
    Reason.ROLLING_OUT: "Replicas are being replaced.",
    Reason.ROLLED_OUT: "All replicas run the spec.",
    Reason.MINIMUM_AVAILABLE: "At least minAvailable replicas are ready.",
    Reason.BELOW_MINIMUM: "Fewer than minAvailable replicas are ready.",
    Reason.REPLICAS_MISSING: "Some replicas are not ready; the pods' reasons are in the message.",
    Reason.ALL_REPLICAS_READY: "All replicas are ready.",
    Reason.SCALED_TO_ZERO: "replicas is 0.",
    Reason.PROBE_ANSWERED: "The expert answered the probe.",
    Reason.PROBE_FAILED: "The expert did not answer the probe; status or error is in the message.",
    Reason.PROBE_DISABLED: "probe is None; whether the expert answers is not known.",
    Reason.PROBE_PENDING: "The first probe has not ended yet.",
    Reason.WRONG_MODEL_SERVED: "The server serves another model than the one asked for.",
    Reason.READY: "The resource does its work.",
    Reason.NOT_READY: "The resource does not do its work; the other conditions say why.",
}


class Condition(Model):
    """One aspect of the state, as `metav1.Condition`."""

    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    observed_generation: NonNegative = 0
    """Generation of the spec that this was decided on."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When the status last changed."""
    reason: Reason
    """Why, in one word of a closed list."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, in words, and what to change."""


class PoolCondition(Condition):
    """A condition of an ExpertPool."""

    type: PoolConditionType
    """Which aspect."""


class TrainingCondition(Condition):
    """A condition of an OrchestratorTraining."""

    type: TrainingConditionType
    """Which aspect."""
