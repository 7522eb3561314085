"""What a controller tells of its training while it lives, under one key of the training's bucket.

It is the content of `status.json`: a JSON object whose fields readers look up by name, and do without. `phase` says
what is being done in one word; `message` is for people, and nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

PROGRESS_KEY: Final = "progress"

State = Literal["Starting", "Running", "Complete", "Failed", "Paused", "Cancelled"]
"""Of a run; the last four are ends."""
Phase = Literal["Starting", "WarmStart", "Training", "Evaluating", "Ended"]
"""What a controller is doing. Starting: nodes, engines and trainers come up."""
_PHASES: Final = frozenset(get_args(Phase))


def phase_of(progress: Mapping[str, Any]) -> Phase | None:
    """What the controller is doing; None: nothing that this reader knows."""
    if "phase" not in progress:
        return _phase_by_message(progress)
    found = progress["phase"]
    return found if found in _PHASES else None


def _phase_by_message(progress: Mapping[str, Any]) -> Phase | None:
    """Of an attempt whose image is older than phases: it told them in its message only. To go with the next release."""
    state, message = progress.get("state"), str(progress.get("message", ""))
    if state == "Running":
        return "Evaluating" if message.startswith("evaluating") else "Training"
    if state == "Starting":
        return "WarmStart" if message.startswith("warm start") else "Starting"
    return None if state is None else "Ended"
