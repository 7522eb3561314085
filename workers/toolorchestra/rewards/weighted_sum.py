"""WeightedSum: the simple baseline. Raw components times weights, standardised over the group.

Weights have units (reward per dollar, per second, per call), so they may exceed 1. Its known weakness: it may reward a
wrong episode for being cheap. The other combiners exist for that reason.
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

    A component whose spread is below its `min_range` counts with the group's mean for every sibling, so it does not
    tell them apart. (With 0 instead, an episode could gain by costing nearly as much as its siblings.)
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
