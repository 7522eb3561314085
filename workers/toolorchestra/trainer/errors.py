"""The root of what training raises."""

from __future__ import annotations


class TrainerError(Exception):
    """Base of the errors of models to be trained, of steps, and of trainer processes."""
