"""Kubernetes conditions: built from the closed list of reasons, and merged with those that were written before.

Invariants: `lastTransitionTime` changes only with `status`; a condition that is not in the new list is kept unchanged;
the order is that of the Status column; every message is cut here to the length that the API server accepts, in a
condition and in its event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from toolorchestra.api.conditions import TRAINING_CONDITION_ORDER, Reason
from toolorchestra_operator.planning.plan import Emit

Status = Literal["True", "False", "Unknown"]
Condition = Mapping[str, Any]
MESSAGE_LENGTH = 4000
"""Most characters of a condition's message. The CRDs allow 32,768; a person reads less."""
NOTE_BYTES = 1024
"""Most bytes of an event's note; events.k8s.io/v1 accepts no more."""

_POOL_ORDER = ("Ready", "Routable", "Available", "Degraded", "Progressing", "Accepted")
_ORDER = {kind: place for place, kind in enumerate((*TRAINING_CONDITION_ORDER, *_POOL_ORDER))}
_BAD_WHEN_TRUE = ("Failed", "Degraded")
_NEUTRAL = ("Suspended", "Progressing")
_EXPECTED = (
    *(Reason.CLUSTER_STARTING, Reason.WARM_STARTING, Reason.EVALUATING, Reason.STEPS_DONE),
    *(Reason.SUSPENDING, Reason.SUSPENDED_BY_USER, Reason.QUOTA_PENDING, Reason.STREAMS_PENDING),
)
"""Reasons of a condition that is not True in normal operation, or because a person wants it: no warning."""


def condition(kind: str, status: Status, reason: Reason, message: str = "") -> dict[str, Any]:
    """Return one condition, as it is now."""
    return {"type": kind, "status": status, "reason": str(reason), "message": cut(message)}


def cut(message: str) -> str:
    """Return the message, cut to the length of a condition, with a note about the cut."""
    if len(message) <= MESSAGE_LENGTH:
        return message
    rest = "… (cut)"
    return message[: MESSAGE_LENGTH - len(rest)] + rest


def note(message: str) -> str:
    """Return the message, cut to the length of an event's note."""
    return message.encode()[:NOTE_BYTES].decode(errors="ignore")


def merged(
    old: Sequence[Condition], new: Sequence[Condition], *, now: datetime, generation: int
) -> tuple[dict[str, Any], ...]:
    """Return the complete list to write: the new conditions, merged over the old ones."""
    before = {one["type"]: one for one in old}
    found = {kind: dict(one) for kind, one in before.items()}
    for one in new:
        last = before.get(one["type"])
        same = last is not None and last["status"] == one["status"]
        since = last["lastTransitionTime"] if same and last is not None else timestamp(now)
        message = cut(one.get("message", ""))
        found[one["type"]] = {
            **one,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": since,
        }
    return tuple(sorted(found.values(), key=lambda one: _ORDER.get(one["type"], len(_ORDER))))


def transitions(old: Sequence[Condition], new: Sequence[Condition]) -> tuple[Emit, ...]:
    """Return the events of a change: for a status that changed, or, while it is not True, for a reason that changed."""
    before = {one["type"]: one for one in old}
    return tuple(_event(one) for one in new if _changed(before.get(one["type"]), one))


def timestamp(moment: datetime) -> str:
    """Return the time as RFC 3339 in seconds, as the API server writes it. `moment` is in UTC."""
    return moment.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _changed(last: Condition | None, one: Condition) -> bool:
    if last is None or last["status"] != one["status"]:
        # A condition that is not yet True, and never was, is no event.
        return last is not None or one["status"] == "True" or one["type"] == "Accepted"
    return bool(one["status"] != "True" and last["reason"] != one["reason"])


def _event(one: Condition) -> Emit:
    bad = (one["status"] == "True") == (one["type"] in _BAD_WHEN_TRUE) and one["type"] not in _NEUTRAL
    bad = bad and one["reason"] not in _EXPECTED
    said = f"{one['type']}={one['status']}" + (f": {one['message']}" if one["message"] else "")
    return Emit("Warning" if bad else "Normal", one["reason"], note(said))
