"""A decision about a training, before it becomes a plan: the conditions, the facts to remember, the objects to have.

Frozen, so that every rule of `reconcile` returns a decision and none can apply another's half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from toolorchestra.api.conditions import Reason, TrainingConditionType
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.trainings.remembered import Remembered

Status = Literal["True", "False", "Unknown"]
Aspect = tuple[Status, Reason, str]
"""Status, reason and message of a condition."""


@dataclass(frozen=True)
class Decision:
    """`create`: once each; `apply`: if it differs; `remove`: those that exist; in this order."""

    remembered: Remembered
    conditions: Mapping[TrainingConditionType, Aspect] = field(default_factory=dict[TrainingConditionType, Aspect])
    create: tuple[Manifest, ...] = ()
    apply: tuple[Manifest, ...] = ()
    remove: tuple[Ref, ...] = ()
    streams: Literal["keep", "make", "remove"] = "keep"
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Additional fields of status."""
    requeue_after: float | None = None

    def says(self, kind: TrainingConditionType, status: Status, reason: Reason, message: str = "") -> Decision:
        """Return the decision with one more condition."""
        return replace(self, conditions={**self.conditions, kind: (status, reason, message)})
