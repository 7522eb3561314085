"""Refusals in words: what the API server says, or what the operator broke on, and the remedy. Pure."""

from __future__ import annotations

from toolorchestra.api.conditions import Reason
from toolorchestra.kube.errors import Forbidden, Invalid
from toolorchestra_operator.planning.carry_out import NameTaken
from toolorchestra_operator.planning.conditions import MESSAGE_LENGTH

Refusal = Forbidden | Invalid | NameTaken
"""Errors that only a change by somebody can end."""

_ERROR_LENGTH = MESSAGE_LENGTH - 200
"""Characters of an error's words, so that there is room for the remedy."""


def broke(error: Exception) -> str:
    """What is said where the operator broke on a resource: the cause, and who can do what."""
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, TimeoutError):
        cause = "a look at it did not end in time"
    remedy = "The operator's log has more, and it tries again. If a field has an odd value, change that."
    return f"the operator failed on this resource: {cause[:_ERROR_LENGTH].rstrip('. ')}. {remedy}"


def reason_of(error: Exception) -> Reason:
    """Of `Accepted=False`."""
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
    }[reason_of(error)]
    return f"{str(error)[:_ERROR_LENGTH].rstrip('. ')}. {remedy}"
