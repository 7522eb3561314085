"""Exit statuses of a driver: how a training's program ended, for whoever started it.

The supervisor of one machine, the pod of the head, Ray and the operator decide by them, and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from toolorchestra.contract.progress import State

PAUSED: Final = 75
"""EX_TEMPFAIL: a person has to act, then it can be resumed."""
TRAINER_LOST: Final = 76
"""A failure by the loss of a trainer: whoever knows why it is gone (its program's fault, or its node's) judges."""
CANCELLED: Final = 130
"""It was told to end, and wrote a checkpoint."""
KILLED: Final = 137
"""SIGKILL ended it: a failure like any other (it may have been out of memory), unless Kubernetes ended its pod."""
TERMINATED: Final = 143
"""SIGTERM ended it before it could, as a shell says it."""

EXIT_CODES: Final[Mapping[State, int]] = {"Complete": 0, "Failed": 1, "Paused": PAUSED, "Cancelled": CANCELLED}
