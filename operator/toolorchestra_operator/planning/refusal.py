"""What a resource says when a plan cannot be carried out, and how to go on.

`Accepted=False`: the API server will not have what the operator wants, or the operator itself broke on the resource.
`MessagingReady=False`: NATS will not. Without it a missing right, a refused field, a taken name, a full JetStream or a
fault of the operator's own would be seen in its log only, because a plan writes its status last. What else the plan
would have said of what runs is said too: it was seen, and not made. The next look that works says that all is well
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.api_errors import Forbidden, Invalid
from toolorchestra_operator.kubernetes.kinds import POOLS
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.messaging.servers import MessagingUnreachable
from toolorchestra_operator.planning.carry_out import NameTaken
from toolorchestra_operator.planning.conditions import MESSAGE_LENGTH, Condition, condition, merged, transitions
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.pools import states

Refusal = Forbidden | Invalid | NameTaken
"""Errors that only a change by somebody can end."""

_ERROR_LENGTH = MESSAGE_LENGTH - 200
"""Characters of an error's words, so that there is room for the remedy."""


def refused(parent: Manifest, error: Exception, now: datetime, *, decided: Manifest | None = None) -> Plan:
    """The plan that tells it on the live `parent`; empty where it says so already. `decided`: the status of the plan
    that was not carried out, where it is about this very parent.
    """
    before: Manifest = parent.get("status") or {}
    old, facts = before.get("conditions") or (), before if decided is None else decided
    generation = int(parent["metadata"].get("generation", 1))
    said = _said(parent, error)
    kinds = {one["type"] for one in said}
    seen = () if decided is None else facts.get("conditions") or ()
    told = [*(one for one in seen if one["type"] not in kinds), *said]
    conditions = merged(old, told, now=now, generation=generation)
    status = {**facts, "observedGeneration": generation, "conditions": list(conditions)}
    return Plan() if status == before else Plan(transitions(old, conditions), status)


def _said(parent: Manifest, error: Exception) -> Sequence[Condition]:
    if isinstance(error, MessagingUnreachable):
        return [condition("MessagingReady", "False", Reason.MESSAGING_UNREACHABLE, str(error))]
    accepted = condition("Accepted", "False", _reason(error), in_words(error))
    if parent.get("kind") != POOLS[1]:
        return [accepted]
    return states.of_refused(accepted, (parent.get("status") or {}).get("conditions") or ())


def broke(error: Exception) -> str:
    """What is said where the operator broke on a resource: the cause, and who can do what."""
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, TimeoutError):
        cause = "a look at it did not end in time"
    remedy = "The operator's log has more, and it tries again. If a field has an odd value, change that."
    return f"the operator failed on this resource: {cause[:_ERROR_LENGTH].rstrip('. ')}. {remedy}"


def _reason(error: Exception) -> Reason:
    match error:
        case Forbidden():
            return Reason.FORBIDDEN
        case NameTaken():
            return Reason.NAME_TAKEN
        case Invalid():
            return Reason.INVALID_SPEC
        case _:
            return Reason.OPERATOR_FAILED


def in_words(error: Exception) -> str:
    """What the API server says, or what the operator broke on, and the remedy."""
    if not isinstance(error, Refusal):
        return broke(error)
    remedy = {
        Reason.FORBIDDEN: "Give the operator's service account this right, or lift the quota or policy that refuses.",
        Reason.NAME_TAKEN: "Delete that object or name the resource otherwise.",
        Reason.INVALID_SPEC: "Change the field that is named.",
    }[_reason(error)]
    return f"{str(error)[:_ERROR_LENGTH].rstrip('. ')}. {remedy}"
