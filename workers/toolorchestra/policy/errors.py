"""The root of what stands between a worker and the policy."""

from __future__ import annotations


class PolicyError(Exception):
    """Base of the errors of the policy's model folder, and of engines as workers see them."""
