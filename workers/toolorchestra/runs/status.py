"""A run's status: state, step, progress, money. What `orchestra status` and the live display read."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from toolorchestra.runs.run_dir import RunDir

State = Literal["Starting", "Running", "Complete", "Failed", "Paused", "Cancelled"]

EXIT_CODES: dict[State, int] = {"Complete": 0, "Cancelled": 130, "Paused": 75, "Failed": 1}
"""Exit status of a controller by how it ended; 75 (EX_TEMPFAIL): a person has to act, then it can be resumed."""
EXIT_TRAINER_LOST = 76
"""Failed too, by the loss of a trainer: whoever knows why it is gone (its program's fault, or its node's) judges."""


@dataclass
class StatusWriter:
    """Keeps status.json current. `steps` is the goal."""

    run: RunDir
    steps: int
    incarnation: int = 0
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    latest: dict[str, Any] = field(default_factory=dict[str, Any])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with every change; whoever passes the status on clears it."""

    def set(self, state: State, *, message: str = "", **fields: Any) -> None:
        """Replace the state and merge further fields (step, spentUSD, metrics, engines, …)."""
        self.fields |= fields
        step = int(self.fields.get("step", 0))
        self.latest = {
            "state": state,
            "message": message,
            "incarnation": self.incarnation,
            "steps": self.steps,
            "progressPercentage": 100 * step // max(1, self.steps),
            "updated": round(time.time(), 3),
            **self.fields,
        }
        self.run.set_status(self.latest)
        self.changed.set()
