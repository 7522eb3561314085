"""The root of what the sandbox raises."""

from __future__ import annotations


class SandboxError(Exception):
    """Base of what the sandbox raises. Raised itself: the sandbox does not work, and no job is to blame."""
