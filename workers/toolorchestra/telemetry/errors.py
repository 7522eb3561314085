"""The error of the telemetry set-up."""

from __future__ import annotations


class TelemetryError(ValueError):
    """An environment variable has an invalid value. The message names the variable and what would be right."""
