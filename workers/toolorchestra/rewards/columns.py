"""Columns: one number per sibling for each weighted component, signed so that more is better.

Outcome and calls count up; cost and latency are negated, since they are losses. A component whose weight is 0 has no
column: it cannot change a reward. A sibling that never called a tool counts with 0 calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from toolorchestra.rewards.component import EpisodeComponents, GroupComponents

OUTCOME = "outcome"
COST = "cost"
LATENCY = "latency"
RESERVED = (OUTCOME, COST, LATENCY)
"""Component names that no tool may carry."""

ROUNDING = 1e-9
"""Numbers that differ by less than this share of the largest count as equal: sums of prices and seconds are rounded."""

CANCELLED = 1e-12
"""Weighted sums that differ by less than this share of the largest term differ by their terms' rounding alone."""

LARGEST = 1e100
"""A component beyond it counts as this much, so that no weight and no square can overflow."""


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
        return tuple(-min(e.cost, LARGEST) for e in episodes)
    if name == LATENCY:
        return tuple(-min(e.latency, LARGEST) for e in episodes)
    return tuple(float(min(e.calls.get(name, 0), LARGEST)) for e in episodes)


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest; 0 for nothing."""
    return max(values) - min(values) if values else 0.0


def magnitude(values: Sequence[float]) -> float:
    """Largest absolute value; 0 for nothing."""
    return max((abs(v) for v in values), default=0.0)


def are_equal(values: Sequence[float]) -> bool:
    """Whether the values are equal up to rounding."""
    return spread(values) <= ROUNDING * magnitude(values)


def is_constant(name: str, values: Sequence[float], *, min_range: Mapping[str, float]) -> bool:
    """Whether a component tells the siblings apart: it is equal up to rounding, or spreads less than its `minRange`."""
    return are_equal(values) or spread(values) < min_range.get(name, 0.0)


def weighted_sums(shares: Sequence[Sequence[float]], *, siblings: int) -> list[float]:
    """Each sibling's sum over the components' weighted values (`shares`, one row per component).

    Sums that only rounding tells apart (terms that cancel) come out exactly equal.
    """
    sums = [math.fsum(share[i] for share in shares) for i in range(siblings)]
    largest = max((magnitude(share) for share in shares), default=0.0)
    return [max(sums)] * siblings if sums and spread(sums) <= CANCELLED * largest else sums
