"""Columns: one number per sibling for each weighted component, signed so that more is better.

Outcome and calls count up; cost and latency are negated, since they are losses. A component whose weight is 0 has no
column: it cannot change a reward. A sibling that never called a tool counts with 0 calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from toolorchestra.rewards.component import EpisodeComponents, GroupComponents

OUTCOME = "outcome"
COST = "cost"
LATENCY = "latency"
RESERVED = (OUTCOME, COST, LATENCY)
"""Component names that no tool may carry."""

ROUNDING = 1e-9
"""Relative spread below which numbers that came out of a sum count as equal."""


def is_right(episode: EpisodeComponents) -> bool:
    """Whether the grader found the episode's answer right (`outcome` is 0 or 1)."""
    return episode.outcome >= 1


def columns(group: GroupComponents) -> dict[str, tuple[float, ...]]:
    """Signed values of every component with a non-zero weight, in the order of the group's episodes.

    Units: outcome 0 or 1, cost in negative US dollars, latency in negative seconds, tools in calls.
    """
    return {name: _column(group.episodes, name) for name, weight in group.weights.items() if weight}


def _column(episodes: Sequence[EpisodeComponents], name: str) -> tuple[float, ...]:
    if name == OUTCOME:
        return tuple(float(e.outcome) for e in episodes)
    if name == COST:
        return tuple(-e.cost for e in episodes)
    if name == LATENCY:
        return tuple(-e.latency for e in episodes)
    return tuple(float(e.calls.get(name, 0)) for e in episodes)


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest; 0 for nothing."""
    return max(values) - min(values) if values else 0.0


def is_constant(name: str, values: Sequence[float], *, min_range: Mapping[str, float]) -> bool:
    """Whether a component tells the siblings apart: its spread is 0, or below the run's `minRange` for it."""
    width = spread(values)
    return width == 0 or width < min_range.get(name, 0.0)
