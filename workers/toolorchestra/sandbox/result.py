"""How a job came out."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from toolorchestra.sandbox.limits import Limits


class How(StrEnum):
    """How a job broke."""

    TIME = "time"
    MEMORY = "memory"
    CRASH = "crash"
    RAISED = "raised"
    OUTPUT = "output"
    """What came back is too long, or no result."""
    INPUT = "input"
    """Too long to be sent."""


@dataclass(frozen=True)
class Returned:
    """The job came to its end. Untrusted text had a hand in `value`, some JSON: check it."""

    value: Any


@dataclass(frozen=True)
class Broke:
    """The job did not come to its end; `detail` says why, for a person."""

    how: How
    detail: str


Result = Returned | Broke


def is_sound(result: Result) -> bool:
    """Whether a child may go on after it: its job came to an end, or only raised."""
    return not isinstance(result, Broke) or result.how is How.RAISED


def read_reply(reply: Any) -> Result:
    """A child's reply, whatever it is."""
    match reply:
        case {"value": value}:
            return Returned(value)
        case {"out_of_memory": True}:
            return Broke(How.MEMORY, "it ran out of memory")
        case {"raised": str(said)}:
            return Broke(How.RAISED, f"it raised {said[:400]}")
        case _:
            return Broke(How.OUTPUT, "what came back is no result")


def read_status(status: int, *, limits: Limits) -> Broke:
    """A dead child's wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        return Broke(How.TIME, f"it used more than {limits.cpu_seconds} CPU seconds")
    if code < 0:
        return Broke(How.CRASH, f"its process died of {_named(-code)}")
    return Broke(How.CRASH, f"its process ended with status {code}")


def _named(number: int) -> str:
    """Real-time signals have no names, and a timer of the job's own can end its process with one."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
