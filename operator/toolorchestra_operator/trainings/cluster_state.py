"""What a training's Ray cluster is doing, whoever made it: the one thing that both providers are translated to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toolorchestra.api.conditions import Reason

Life = Literal["Absent", "Queued", "Starting", "Up", "Succeeded", "Failed", "Refused", "Paused", "Stopped"]
"""Queued: it may not use compute, or is giving it back, and will be let go on. Failed: the program's own failure, which
counts. Refused: it cannot be made as it is written. Stopped: told to end, or its nodes were taken away; never counts.
Paused: a person has to act."""

EXIT_PAUSED = 75
EXIT_TRAINER_LOST = 76
"""A failure like any other, unless the provider knows that the trainer's node was taken away."""
EXIT_STOPPED = 130
EXIT_KILLED = 137
"""A failure like any other (it may have been out of memory), unless Kubernetes says that it ended the pod."""
EXIT_TERMINATED = 143
"""Exit statuses of the driver (toolorchestra.train.status.EXIT_CODES; a test compares them)."""


@dataclass(frozen=True)
class ClusterState:
    """`message`: the program's or the scheduler's own words."""

    life: Life
    reason: Reason = Reason.CLUSTER_STARTING
    message: str = ""

    @property
    def ended(self) -> bool:
        return self.life in ("Succeeded", "Failed", "Refused", "Paused", "Stopped")


def of_exit(code: int | None, *, message: str, reason: str | None = None) -> ClusterState:
    """How an attempt ended, by the exit status of its driver; None: nobody knows, so it counts as a failure.

    `reason` is the driver's own, of a pause.
    """
    match code:
        case 0:
            return ClusterState("Succeeded", Reason.STEPS_DONE, message or "all steps are done")
        case _ if code == EXIT_PAUSED:
            return ClusterState("Paused", Reason(reason or Reason.PROGRAM_FAILED), message)
        case _ if code in (EXIT_STOPPED, EXIT_TERMINATED):
            return ClusterState("Stopped", Reason.RESTARTING, message or "it was told to end")
        case _:
            said = message or f"the program ended with status {code}"
            return ClusterState("Failed", Reason.PROGRAM_FAILED, said)
