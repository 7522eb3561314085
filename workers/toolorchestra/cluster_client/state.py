"""Computes a training's state, message and next step from its resource, in the terms of local runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from toolorchestra.api.conditions import Reason

Json = Mapping[str, Any]
State = Literal[
    "Pending",
    "Refused",
    "Queued",
    "Starting",
    "Running",
    "Paused",
    "Suspending",
    "Suspended",
    "Complete",
    "Failed",
    "Ending",
]
"""The states of a local run, and: Pending (the operator has not handled it yet), Refused (`Accepted=False`), Ending
(it is being deleted)."""

ENDED: frozenset[State] = frozenset({"Complete", "Failed"})
"""States that are final."""
EXIT_CODES: Mapping[State, int] = {
    "Complete": 0,
    "Failed": 1,
    "Refused": 1,
    "Paused": 75,
    "Suspended": 130,
    "Ending": 130,
}
"""Exit status of a command that followed the training until this state; the same as for a local run."""

_PAUSES = frozenset(
    {
        Reason.SPEND_CAP_REACHED,
        Reason.FAILURE_RATE_EXCEEDED,
        Reason.GROUPS_EXHAUSTED,
        Reason.OUTPUTS_UNREADABLE,
        Reason.NOTHING_LEARNED,
        Reason.EXPERT_MISCONFIGURED,
        Reason.EXPERT_OUT,
        Reason.STEPS_NOT_FINITE,
        Reason.MODEL_REFUSED,
    }
)
_ASPECTS = ("QuotaReserved", "MessagingReady", "ExpertsReady", "ClusterReady", "Running")
"""Conditions that a starting training waits for, in this order."""


def condition(training: Json, kind: str) -> Json:
    """Return the condition of this type; empty where the resource has none."""
    conditions = (training.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def _is(training: Json, kind: str, status: str = "True") -> bool:
    return condition(training, kind).get("status") == status


def state_of(training: Json) -> State:
    """Return the training's state."""
    if training["metadata"].get("deletionTimestamp"):
        return "Ending"
    if _is(training, "Failed"):
        return "Failed"
    if _is(training, "Complete"):
        return "Complete"
    if _is(training, "Accepted", "False"):
        return "Refused"
    if training["spec"].get("suspend"):
        return "Suspended" if _is(training, "Suspended") and compute_is_back(training) else "Suspending"
    if _is(training, "Running"):
        return "Running"
    if condition(training, "Running").get("reason") in _PAUSES:
        return "Paused"
    if not condition(training, "Accepted"):
        return "Pending"
    return "Queued" if _is(training, "QuotaReserved", "False") else "Starting"


def compute_is_back(training: Json) -> bool:
    """Return whether a suspended training's Ray cluster and workers are gone, according to its resource."""
    suspended = condition(training, "Suspended")
    seen = int((training.get("status") or {}).get("observedGeneration") or 0)
    current = seen >= int(training["metadata"].get("generation") or 0)
    return current and (suspended.get("status"), suspended.get("reason")) == ("True", Reason.SUSPENDED_BY_USER)


def message_of(training: Json) -> str:
    """Return the most useful message for the state."""
    state = state_of(training)
    match state:
        case "Failed" | "Complete":
            return _said(condition(training, state))
        case "Refused":
            return _said(condition(training, "Accepted"))
        case "Suspending" | "Suspended":
            return str(condition(training, "Suspended").get("message", ""))
        case "Running" | "Paused":
            return _said(condition(training, "Running"))
        case "Pending":
            return "the operator has not handled it yet"
        case "Ending":
            return "it is being deleted"
    waits = (condition(training, kind) for kind in _ASPECTS)
    found = next((one for one in waits if one.get("status") == "False"), None)
    return f"{found['type']}: {_said(found)}" if found else ""


def _said(one: Json) -> str:
    return ": ".join(part for part in (str(one.get("reason", "")), str(one.get("message", ""))) if part)


def steps_of(training: Json) -> int | None:
    """Return the number of steps that the training asks for."""
    steps = (training["spec"].get("algorithm") or {}).get("steps")
    return None if steps is None else int(steps)


def next_step(training: Json) -> str:
    """Return what a person can do now, with the command; empty where there is nothing to do."""
    name = training["metadata"]["name"]
    where = f"-n {training['metadata']['namespace']}"
    match state_of(training):
        case "Running" | "Starting" | "Queued":
            return (
                f"orchestra logs {name} {where} -f; orchestra suspend {name} {where}; orchestra cancel {name} {where}"
            )
        case "Complete":
            return f"orchestra get-model {name} {where} --to {name}"
        case "Paused":
            return "do what the message says: change the file, and submit it again with orchestra submit"
        case "Refused":
            return "do what the message says; then the operator accepts it without another command"
        case "Suspended" | "Suspending":
            return f"orchestra resume {name} {where}"
        case "Failed":
            return f"orchestra logs {name} {where}; its storage keeps the checkpoints"
        case "Pending":
            return "kubectl get deployments -A -l app.kubernetes.io/component=operator (orchestra plan shows more)"
    return ""


def state_row(training: Json) -> dict[str, Any]:
    """Return everything that `status` shows of one training; numbers stay text where the resource has text."""
    status, metadata = training.get("status") or {}, training["metadata"]
    metrics = status.get("metrics") or {}
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "state": state_of(training),
        "message": message_of(training),
        "attempt": status.get("attempt"),
        "step": status.get("step"),
        "steps": steps_of(training),
        "progressPercentage": status.get("progressPercentage"),
        "reward": metrics.get("reward"),
        "accuracy": metrics.get("accuracy"),
        "usdPerTask": metrics.get("usdPerTask"),
        "spentUSD": status.get("spentUSD"),
        "restarts": status.get("restarts"),
        "policyVersion": status.get("policyVersion"),
        "provider": (status.get("ray") or {}).get("provider"),
        "checkpoint": status.get("checkpoint"),
        "exportURI": status.get("exportURI"),
        "experts": status.get("experts") or [],
        "conditions": status.get("conditions") or [],
        "created": metadata.get("creationTimestamp"),
        "next": next_step(training),
    }
