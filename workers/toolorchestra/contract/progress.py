"""The progress that a running controller publishes, under one key of the training's bucket.

Its content is that of `status.json`: a JSON object. Readers look up fields by name, and every field may be missing.
`phase` is one word for the current activity; `message` is for people, and code never decides by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

PROGRESS_KEY: Final = "progress"

State = Literal["Starting", "Running", "Complete", "Failed", "Paused", "Cancelled"]
"""State of a run; the last four are final."""
Phase = Literal["Starting", "WarmStart", "Training", "Evaluating", "Ended"]
"""What a controller is doing. Starting: nodes, engines and trainers start."""
_PHASES: Final = frozenset(get_args(Phase))


def phase_of(progress: Mapping[str, Any]) -> Phase | None:
    """Return what the controller is doing; None: a phase that this reader does not know."""
    if "phase" not in progress:
        return _phase_by_message(progress)
    found = progress["phase"]
    return found if found in _PHASES else None


def _phase_by_message(progress: Mapping[str, Any]) -> Phase | None:
    """Return the phase by the message: images older than `phase` have only that. Remove in the next release."""
    state, message = progress.get("state"), str(progress.get("message", ""))
    if state == "Running":
        return "Evaluating" if message.startswith("evaluating") else "Training"
    if state == "Starting":
        return "WarmStart" if message.startswith("warm start") else "Starting"
    return None if state is None else "Ended"
