"""The root of what the controller raises; how a run ends without an error is in pauses.py."""

from __future__ import annotations


class ControllerError(Exception):
    """Base of the controller's errors: a run that cannot be made, or a trace that cannot be trained on."""
