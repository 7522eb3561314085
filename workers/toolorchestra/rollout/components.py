"""The raw components of an episode from its turns. Pure; nothing is normalised or weighted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

from toolorchestra.rollout.trace import Call, Components, Ending, Meter, Turn

_MADE = frozenset({"ok", "refused"})
"""Statuses of calls that reached the tool and came back: only those count as calls."""


def call_counts(turns: Iterable[Turn]) -> dict[str, int]:
    """Calls per pool or function name, over all turns. Rejected, cancelled and failed calls never reached the tool."""
    return dict(Counter(call.name for turn in turns for call in turn.calls if call.status in _MADE))


def calls_seconds(calls: Iterable[Call]) -> float:
    """Service seconds of one turn's calls: they run in parallel, so the slowest one is what the user waits for."""
    return max((call.meter.service_seconds for call in calls), default=0.0)


def outcome_of(ending: Ending, *, graded: float | None) -> float | None:
    """The grade where the ending is scored, 0 for the policy's own faults, None for what it did not cause."""
    match ending.treatment:
        case "scored":
            return graded
        case "zero":
            return 0.0
        case "unscored":
            return None


def components_of(turns: Sequence[Turn], *, ending: Ending, graded: float | None, wall_seconds: float) -> Components:
    """Components of an episode (method.md §3): every token of every model, the policy's own included."""
    meters: list[Meter] = [turn.meter for turn in turns]
    meters.extend(call.meter for turn in turns for call in turn.calls)
    return Components(
        outcome=outcome_of(ending, graded=graded),
        cost_usd=sum((meter.nominal_usd for meter in meters), Decimal(0)),
        actual_usd=sum((meter.actual_usd for meter in meters), Decimal(0)),
        service_seconds=sum(turn.meter.service_seconds + calls_seconds(turn.calls) for turn in turns),
        wall_seconds=wall_seconds,
        calls=call_counts(turns),
    )
