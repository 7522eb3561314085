"""WeightedSum: the plain baseline. Raw components times weights, standardised over the group.

Weights carry units (reward per dollar, per second, per call), so they are not bounded by 1. It may pay a wrong
episode for being cheap: that is its known weakness and the reason why the other combiners exist.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from toolorchestra.rewards.columns import columns, is_constant, weighted_sums
from toolorchestra.rewards.component import GroupComponents
from toolorchestra.rewards.per_group import PerGroup


@dataclass(frozen=True, kw_only=True)
class WeightedSum(PerGroup):
    """R = p_outcome · outcome − p_cost · dollars − p_latency · seconds + Σ p_tool · calls.

    A component that spreads less than its `min_range` counts with the group's mean for every sibling: it cannot tell
    them apart. (Not with 0, or an episode could gain by costing nearly as much as its siblings.)
    """

    gated = False

    def _rewards(self, group: GroupComponents) -> tuple[float, ...]:
        shares = [
            [group.weights[name] * v for v in self._levelled(name, values)] for name, values in columns(group).items()
        ]
        return tuple(weighted_sums(shares, siblings=len(group.episodes)))

    def _levelled(self, name: str, values: Sequence[float]) -> Sequence[float]:
        if not is_constant(name, values, min_range=self.min_range):
            return values
        return [math.fsum(values) / len(values)] * len(values)
