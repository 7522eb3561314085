"""Columns: one number per sibling for each weighted component, signed so that more is better.

Outcome and calls are positive. Cost and latency are losses, so they are negated. A component with weight 0 has no
column, because it cannot change a reward. A sibling that never called a tool has 0 calls of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from toolorchestra.rewards.component import EpisodeComponents, GroupComponents

OUTCOME = "outcome"
COST = "cost"
LATENCY = "latency"
RESERVED = (OUTCOME, COST, LATENCY)
"""Component names that a tool must not have."""

ROUNDING = 1e-9
"""Numbers are equal if they differ by less than this share of the largest: sums of prices and seconds are rounded."""

CANCELLED = 1e-12
"""Weighted sums are equal if they differ by less than this share of the largest term: that is only rounding."""

LARGEST = 1e100
"""Upper limit for a component, so that no weight and no square can overflow."""


def is_right(episode: EpisodeComponents) -> bool:
    """Return whether the grader accepted the episode's answer (`outcome` is 0 or 1)."""
    return episode.outcome >= 1


def columns(group: GroupComponents) -> dict[str, tuple[float, ...]]:
    """Return the signed values of every component with a non-zero weight, in the order of the group's episodes.

    Units: outcome 0 or 1, cost in negative US dollars, latency in negative seconds, tools in calls.
    """
    return {name: _column(group.episodes, name) for name, weight in group.weights.items() if weight}


def _column(episodes: Sequence[EpisodeComponents], name: str) -> tuple[float, ...]:
    if name == OUTCOME:
        return tuple(float(e.outcome) for e in episodes)
    if name == COST:
        return tuple(-min(e.cost, LARGEST) for e in episodes)
    if name == LATENCY:
        return tuple(-min(e.latency, LARGEST) for e in episodes)
    return tuple(float(min(e.calls.get(name, 0), LARGEST)) for e in episodes)


def spread(values: Sequence[float]) -> float:
    """Return the largest minus the smallest value; 0 for no values."""
    return max(values) - min(values) if values else 0.0


def magnitude(values: Sequence[float]) -> float:
    """Return the largest absolute value; 0 for no values."""
    return max((abs(v) for v in values), default=0.0)


def are_equal(values: Sequence[float]) -> bool:
    """Return whether the values are equal up to rounding."""
    return spread(values) <= ROUNDING * magnitude(values)


def is_constant(name: str, values: Sequence[float], *, min_range: Mapping[str, float]) -> bool:
    """Return whether a component cannot tell siblings apart: equal up to rounding, or a spread below its `minRange`."""
    return are_equal(values) or spread(values) < min_range.get(name, 0.0)


def weighted_sums(shares: Sequence[Sequence[float]], *, siblings: int) -> list[float]:
    """Return each sibling's sum over the components' weighted values (`shares` has one row per component).

    Sums that differ only by rounding (terms that cancel) become exactly equal.
    """
    sums = [math.fsum(share[i] for share in shares) for i in range(siblings)]
    largest = max((magnitude(share) for share in shares), default=0.0)
    return [max(sums)] * siblings if sums and spread(sums) <= CANCELLED * largest else sums
