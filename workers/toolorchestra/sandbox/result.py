"""The result of a job."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from toolorchestra.sandbox.limits import Limits


class How(StrEnum):
    """How a job failed."""

    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"
    RAISED = "raised"
    OUTPUT = "output"
    """The output is too long, or not a result."""
    INPUT = "input"
    """The job is too long to be sent, or not JSON."""


@dataclass(frozen=True)
class Returned:
    """The job ended normally. `value` is JSON that untrusted text may have influenced: check it."""

    value: Any


@dataclass(frozen=True)
class Broke:
    """The job failed. `detail` says why, for people."""

    how: How
    detail: str


Result = Returned | Broke


def is_sound(result: Result) -> bool:
    """Return whether the child may run more jobs: its job ended, or only raised an exception."""
    return not isinstance(result, Broke) or result.how is How.RAISED


def read_reply(reply: Any) -> Result:
    """Return the result in a child's reply. Any value is accepted."""
    match reply:
        case {"value": value}:
            return Returned(value)
        case {"out_of_memory": True}:
            return Broke(How.MEMORY, "it ran out of memory")
        case {"raised": str(said)}:
            return Broke(How.RAISED, f"it raised {said[:400]}")
        case _:
            return Broke(How.OUTPUT, "its output is not a result")


def read_status(status: int, *, limits: Limits) -> Broke:
    """Return the failure for the wait status of an ended child."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return Broke(How.TIME, f"it used more than {limits.cpu_seconds} CPU seconds")
    if code < 0:
        return Broke(How.CRASH, f"its process was ended by {_named(-code)}")
    return Broke(How.CRASH, f"its process ended with status {code}")


def _named(number: int) -> str:
    """Return a signal's name. Real-time signals have none, and a timer that a job sets can send one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
