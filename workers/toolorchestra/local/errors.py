"""The root of what running a training on this machine raises."""

from __future__ import annotations


class MachineError(Exception):
    """Base of the errors of a training on one machine: of its plan, its processes and its folder."""
