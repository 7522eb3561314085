"""Writes a run's status: state, step, progress, spend. `orchestra status` and the live display read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.contract.progress import Phase, State
from toolorchestra.runs.run_dir import RunDir

_PHASES: Mapping[State, Phase] = {"Starting": "Starting", "Running": "Training"}


@dataclass
class StatusWriter:
    """Keeps status.json up to date. `steps`: total number of steps."""

    run: RunDir
    steps: int
    incarnation: int = 0
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    latest: dict[str, Any] = field(default_factory=dict[str, Any])
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with every change; the reader that publishes the status clears it."""

    def set(self, state: State, *, phase: Phase | None = None, message: str = "", **fields: Any) -> None:
        """Replace the state and merge further fields (step, spentUSD, metrics, engines, …). `phase` None: the default
        phase of the state.
        """
        self.fields |= fields
        step = int(self.fields.get("step", 0))
        self.latest = {
            "state": state,
            "phase": phase or _PHASES.get(state, "Ended"),
            "message": message,
            "incarnation": self.incarnation,
            "steps": self.steps,
            "progressPercentage": 100 * step // max(1, self.steps),
            "updated": round(time.time(), 3),
            **self.fields,
        }
        self.run.set_status(self.latest)
        self.changed.set()
