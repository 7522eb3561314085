"""Conditions of both kinds, what each says, and their reasons (`reasons.py`); docs/conditions.md is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from toolorchestra.api.base import Model
from toolorchestra.api.reasons import Reason as Reason
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

TRAINING_CONDITIONS: Mapping[TrainingConditionType, str] = {
    "Accepted": "It can work as written and as the cluster is. `False`: nothing is made or changed; what runs is "
    "supervised to its end all the same; it heals by itself when the cause goes.",
    "QuotaReserved": "The queue that it names admitted it, or it names none. Nothing is started before.",
    "MessagingReady": "Its streams, consumers and buckets exist on NATS.",
    "ExpertsReady": "Every expert that it was admitted with is ready. `False` while it runs: episodes of those that "
    "are out are deferred.",
    "ClusterReady": "Head, trainers and engines of the present attempt are up.",
    "Running": "Steps are being made. `False` with a reason of a pause: a person has to act.",
    "Complete": "All steps are done and the model is exported. It stays so.",
    "Failed": "It ended for good without being complete. It stays so: what is left are checkpoints, from which a new "
    "training can start.",
    "Suspended": "`spec.suspend` is true: compute is given back, or is about to be.",
}
"""What each condition of a training says."""

POOL_CONDITIONS: Mapping[PoolConditionType, str] = {
    "Accepted": "It can work as written and as the cluster is. `False`: nothing is made or changed, replicas that "
    "serve go on; it heals by itself when the cause goes.",
    "Progressing": "Replicas are being made or replaced.",
    "Available": "At least `minAvailable` replicas are ready; of an endpoint: the probe answered.",
    "Degraded": "Something stands in the way of a replica, or one is missing that no roll-out explains; of an "
    "endpoint: the probe failed.",
    "Routable": "The last probe of its URL answered; the message says how often it is asked.",
    "Ready": "Accepted, available and routable: an expert that trainings may use.",
}
"""What each condition of a pool says."""

CONDITION_LIST: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


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
