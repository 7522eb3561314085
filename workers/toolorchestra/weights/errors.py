"""The root of what storing and reading weights raises."""

from __future__ import annotations


class WeightsError(Exception):
    """Base of the errors of snapshots and checkpoints."""
