"""The state of a training's Ray cluster, into which both providers translate theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolorchestra.api.conditions import Reason
from toolorchestra.contract.exit_status import CANCELLED, PAUSED, TERMINATED

Life = Literal["Absent", "Queued", "Starting", "Up", "Succeeded", "Failed", "Refused", "Paused", "Stopped"]
"""Queued: it may not use compute, or is giving it back, and will be admitted later. Failed: a failure of the program,
which counts. Refused: it cannot be created as it is written. Stopped: it was told to end, or its nodes were lost; it
never counts. Paused: a person has to act."""


@dataclass(frozen=True)
class ClusterState:
    """The state, with the reason. `message`: the text of the program or the scheduler."""

    life: Life
    reason: Reason = Reason.CLUSTER_STARTING
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.life in ("Succeeded", "Failed", "Refused", "Paused", "Stopped")


def of_exit(code: int | None, *, message: str, reason: str | None = None) -> ClusterState:
    """Return how an attempt ended, by the exit status of its driver; None: unknown, so it counts as a failure.

    `reason` is the driver's own reason of a pause.
    """
    match code:
        case 0:
            return ClusterState("Succeeded", Reason.STEPS_DONE, message or "all steps are done")
        case _ if code == PAUSED:
            return ClusterState("Paused", Reason(reason or Reason.PROGRAM_FAILED), message)
        case _ if code in (CANCELLED, TERMINATED):
            return ClusterState("Stopped", Reason.RESTARTING, message or "it was told to end")
        case _:
            said = message or f"the program ended with status {code}"
            return ClusterState("Failed", Reason.PROGRAM_FAILED, said)
