"""The root of what a worker is given and cannot use."""

from __future__ import annotations


class RolloutError(Exception):
    """Base of the errors of rollout workers: of payloads, and of their pool file."""
