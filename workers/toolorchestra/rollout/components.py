"""Computes the raw components of an episode from its turns, and of a group for the combiner.

Pure. Nothing is normalised or weighted here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

from toolorchestra.rewards.component import EpisodeComponents, GroupComponents
from toolorchestra.rollout.trace import Call, Components, Ending, Meter, Trace, Turn

_MADE = frozenset({"ok", "refused"})
"""Statuses of calls that reached the tool and returned. Only these count as calls."""


def call_counts(turns: Iterable[Turn]) -> dict[str, int]:
    """Return the calls per pool or function name, over all turns. Rejected, cancelled and failed calls do not count."""
    return dict(Counter(call.name for turn in turns for call in turn.calls if call.status in _MADE))


def calls_seconds(calls: Iterable[Call]) -> float:
    """Return the service seconds of one turn's calls. They run in parallel, so the slowest one counts."""
    return max((call.meter.service_seconds for call in calls), default=0.0)


def outcome_of(ending: Ending, *, graded: float | None) -> float | None:
    """Return the grade if the ending is scored, 0 for the policy's own faults, None if the policy is not the cause."""
    match ending.treatment:
        case "scored":
            return graded
        case "zero":
            return 0.0
        case "unscored":
            return None


def components_of(turns: Sequence[Turn], *, ending: Ending, graded: float | None, wall_seconds: float) -> Components:
    """Return the components of an episode (method.md §3): all tokens of all models, including the policy's own."""
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


def group_components(
    traces: Sequence[Trace],
    *,
    weights: Mapping[str, float],
    tools: Sequence[str],
    latency: Literal["Service", "WallClock"] = "Service",
) -> GroupComponents:
    """Return the combiner's input for a group: nominal dollars, the chosen latency, calls by tool."""
    episodes = [
        EpisodeComponents(
            outcome=trace.components.outcome or 0.0,
            cost=float(trace.components.cost_usd),
            latency=trace.components.service_seconds if latency == "Service" else trace.components.wall_seconds,
            calls=trace.components.calls,
        )
        for trace in traces
    ]
    return GroupComponents(episodes=episodes, weights=weights, tools=tools)
