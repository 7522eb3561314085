"""Exceptions that end a run before its last step: Paused (a person has to act) and Stopped (a person asked for it)."""

from __future__ import annotations

from toolorchestra.api.conditions import Reason
from toolorchestra.ledger.spend import Spend


class Paused(Exception):
    """Waiting does not help: a person has to act.

    The text says what happened and what to do; `reason` is the reason of the condition.
    """

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class Stopped(Exception):
    """The run was asked to end, and ends between two steps."""


def cap_reached(spend: Spend) -> Paused:
    """Return the pause for a spend cap that has no room for more dispatches."""
    return Paused(
        f"the spend cap is reached: ${spend.settled} spent and ${spend.held} reserved of ${spend.cap}."
        " Raise spec.limits.maxSpendUSD and resume.",
        reason=Reason.SPEND_CAP_REACHED,
    )
