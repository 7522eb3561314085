"""The conditions of both kinds and their meanings. docs/conditions.md is generated from them and from `reasons.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from toolorchestra.api.base import OPEN, Model
from toolorchestra.api.reasons import Reason as Reason
from toolorchestra.api.scalars import NonNegative, PatternText

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
"""Order in which a training's conditions are written, the most important first. The Status column of `kubectl get`
shows the first one that is True, so no phase is needed."""

TRAINING_CONDITIONS: Mapping[TrainingConditionType, str] = {
    "Accepted": "The training can run as written, on this cluster. `False`: the operator makes and changes nothing, "
    "but still supervises what runs. The condition becomes `True` by itself when the cause is gone.",
    "QuotaReserved": "Its queue admitted it, or it names no queue. Nothing starts before that.",
    "MessagingReady": "Its streams, consumers and buckets exist on NATS.",
    "ExpertsReady": "Every expert that it was admitted with is ready. `False` while it runs: episodes that need an "
    "unavailable expert are deferred.",
    "ClusterReady": "Head, trainers and engines of the current attempt are ready.",
    "Running": "The training makes steps. `False` with the reason of a pause: a person must act.",
    "Complete": "All steps are done and the model is exported. Final.",
    "Failed": "It ended without being complete. Final: its checkpoints stay, and a new training can start from them.",
    "Suspended": "`spec.suspend` is true: compute is released, or is being released.",
}
"""Meaning of each condition of a training."""

POOL_CONDITIONS: Mapping[PoolConditionType, str] = {
    "Accepted": "The pool can run as written, on this cluster. `False`: the operator makes and changes nothing; "
    "serving replicas continue. The condition becomes `True` by itself when the cause is gone.",
    "Progressing": "Replicas are being made or replaced.",
    "Available": "At least `minAvailable` replicas are ready; for an endpoint: the probe was answered.",
    "Degraded": "Something prevents a replica, or one is missing without a rollout; for an endpoint: the probe failed.",
    "Routable": "The last probe of its URL was answered; the message says how often it is probed.",
    "Ready": "Accepted, available and routable: trainings may use the expert.",
}
"""Meaning of each condition of a pool."""

CONDITION_LIST: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


_Word = Annotated[
    str, PatternText(r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", "one word, as metav1.Condition has it", 316)
]
"""A pattern, not an enum of the known words: the CRD of one version must accept the conditions that the operator of
another version writes. Otherwise no status could be written."""


class Condition(Model):
    """One aspect of the state, as `metav1.Condition`."""

    model_config = OPEN

    type: _Word
    """Which aspect; docs/conditions.md lists all."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    observed_generation: NonNegative = 0
    """Generation of the spec that the condition is about."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When the status last changed."""
    reason: _Word
    """Why, as one word of a fixed list: docs/conditions.md."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, in a sentence, and what to change."""
