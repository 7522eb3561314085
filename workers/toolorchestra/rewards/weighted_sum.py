"""WeightedSum: the plain baseline. Raw components times weights, standardised over the group.

Weights carry units (reward per dollar, per second, per call), so they are not bounded by 1. It may pay a wrong
episode for being cheap: that is its known weakness and the reason why the other combiners exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toolorchestra.rewards.advantage import standardise
from toolorchestra.rewards.columns import columns, is_constant, weighted_sums
from toolorchestra.rewards.component import GroupComponents, GroupReward
from toolorchestra.rewards.filters import GroupFilter


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """R = p_outcome · outcome − p_cost · dollars − p_latency · seconds + Σ p_tool · calls.

    A component that spreads less than its `min_range` counts with the group's mean for every sibling: it cannot tell
    them apart. (Not with 0, or an episode could gain by costing nearly as much as its siblings.)
    """

    min_range: Mapping[str, float] = field(default_factory=dict[str, float])
    min_reward_std: float | None = 0.1
    informative: bool = False

    def __call__(self, groups: Sequence[GroupComponents]) -> list[GroupReward]:
        return [self._group(group) for group in groups]

    def _group(self, group: GroupComponents) -> GroupReward:
        rewards = self._rewards(group)
        reason = GroupFilter(
            min_reward_std=self.min_reward_std, informative=self.informative, gated=False, min_range=self.min_range
        ).reason(group, rewards)
        return GroupReward(rewards=rewards, advantages=standardise(rewards), keep=not reason, reason=reason)

    def _rewards(self, group: GroupComponents) -> tuple[float, ...]:
        shares = [
            [group.weights[name] * v for v in self._levelled(name, values)] for name, values in columns(group).items()
        ]
        return tuple(weighted_sums(shares, siblings=len(group.episodes)))

    def _levelled(self, name: str, values: Sequence[float]) -> Sequence[float]:
        if not is_constant(name, values, min_range=self.min_range):
            return values
        return [math.fsum(values) / len(values)] * len(values)
