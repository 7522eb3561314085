"""Messages of refusals: the API server's text, or the error of the operator, and the remedy. Pure."""

from __future__ import annotations

from toolorchestra.api.conditions import Reason
from toolorchestra.kube.errors import Forbidden, Invalid
from toolorchestra_operator.planning.carry_out import NameTaken
from toolorchestra_operator.planning.conditions import MESSAGE_LENGTH

Refusal = Forbidden | Invalid | NameTaken
"""Errors that end only when a person changes something."""

_ERROR_LENGTH = MESSAGE_LENGTH - 200
"""Most characters of an error's text, so that the message has room for the remedy."""


def broke(error: Exception) -> str:
    """Return the message for a resource on which the operator failed: the cause and the remedy."""
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, TimeoutError):
        cause = "a reconcile of it did not end in time"
    remedy = "The operator's log has more, and it tries again. If a field has an unusual value, change it."
    return f"the operator failed on this resource: {cause[:_ERROR_LENGTH].rstrip('. ')}. {remedy}"


def reason_of(error: Exception) -> Reason:
    """Return the reason of `Accepted=False`."""
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
    """Return the API server's text, or the error of the operator, with the remedy."""
    if not isinstance(error, Refusal):
        return broke(error)
    remedy = {
        Reason.FORBIDDEN: "Give the operator's service account this right, or change the quota or policy.",
        Reason.NAME_TAKEN: "Delete that object, or give the resource another name.",
        Reason.INVALID_SPEC: "Change the field that is named.",
    }[reason_of(error)]
    return f"{str(error)[:_ERROR_LENGTH].rstrip('. ')}. {remedy}"
