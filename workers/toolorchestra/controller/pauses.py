"""How a run ends before its last step: paused, because a person has to act, or stopped, because one asked for it."""

from __future__ import annotations

from toolorchestra.api.conditions import Reason
from toolorchestra.ledger.spend import Spend


class Paused(Exception):
    """Nothing will change by waiting: a person has to act. The text says what happened and what to do; `reason` is the
    word that a condition shows."""

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


class Stopped(Exception):
    """The run was asked to end; it has ended between two steps."""


def cap_reached(spend: Spend) -> Paused:
    """Nothing more fits under the spend cap."""
    return Paused(
        f"the spend cap is reached: ${spend.settled} spent and ${spend.held} reserved of ${spend.cap}."
        " Raise spec.limits.maxSpendUSD and resume.",
        reason=Reason.SPEND_CAP_REACHED,
    )
