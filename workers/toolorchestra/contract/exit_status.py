"""Exit statuses of a driver: how a training's program ended.

The supervisor on one machine, the head's pod, Ray and the operator decide by the exit status alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from toolorchestra.contract.progress import State

PAUSED: Final = 75
"""EX_TEMPFAIL: a person must act; then the training can be resumed."""
TRAINER_LOST: Final = 76
"""A trainer was lost. The process that knows the cause (the program or the node) decides whether it is a failure."""
CANCELLED: Final = 130
"""The driver was asked to end, and wrote a checkpoint."""
KILLED: Final = 137
"""SIGKILL ended the driver: an ordinary failure (perhaps out of memory), unless Kubernetes ended its pod."""
TERMINATED: Final = 143
"""SIGTERM ended the driver before it could end by itself; the status that a shell reports."""

EXIT_CODES: Final[Mapping[State, int]] = {"Complete": 0, "Failed": 1, "Paused": PAUSED, "Cancelled": CANCELLED}
