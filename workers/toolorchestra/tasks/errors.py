"""The root of what sources of tasks and graders raise."""

from __future__ import annotations


class TaskError(Exception):
    """Base of the errors of tasks: of their files, their sources, their graders."""


class UnknownGrader(TaskError, LookupError):
    """No grader has this name. The text lists those that there are."""
