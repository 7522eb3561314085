"""The root of what the bus raises."""

from __future__ import annotations


class BusError(Exception):
    """Base of what the bus raises."""
