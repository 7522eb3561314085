"""What set-up raises."""

from __future__ import annotations


class TelemetryError(ValueError):
    """A variable that cannot be obeyed; the message names it and what would be right."""
