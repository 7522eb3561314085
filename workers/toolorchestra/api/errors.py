"""The root of what reading a person's files raises."""

from __future__ import annotations


class InputError(Exception):
    """Base of the errors of files that a person gave: they cannot be read, or not be used as they are."""
