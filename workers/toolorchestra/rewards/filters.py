"""Filters: which groups are dropped from the backward pass because their siblings say nothing about each other.

`minRewardStd` (0.1 as published) looks at the rewards' sample standard deviation. `informative` looks at what the
rewards are made of instead and takes the threshold's place: a group stays if its outcome varies or if any weighted
component varies. (Both at once would be the threshold alone, which is the stricter.) A wrong episode's cost never
counts for a combiner that gives wrong episodes nothing for it (`gated`): such a group, all wrong, has no signal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toolorchestra.rewards.advantage import sample_std
from toolorchestra.rewards.columns import OUTCOME, columns, is_constant, is_right
from toolorchestra.rewards.component import GroupComponents

TOO_FEW_SCORED = "too_few_scored"
REWARD_STD = "reward_std"
UNINFORMATIVE = "uninformative"


@dataclass(frozen=True, kw_only=True)
class GroupFilter:
    """`min_reward_std` None: no threshold. `min_range` is per component, in its raw unit."""

    min_reward_std: float | None = 0.1
    informative: bool = False
    gated: bool = True
    min_range: Mapping[str, float] = field(default_factory=dict[str, float])

    def reason(self, group: GroupComponents, rewards: Sequence[float]) -> str:
        """Why the group is dropped, one of the reasons above; empty where it trains."""
        if len(rewards) < 2:
            return TOO_FEW_SCORED
        if self.informative:
            return "" if is_informative(group, gated=self.gated, min_range=self.min_range) else UNINFORMATIVE
        if self.min_reward_std is not None and sample_std(rewards) < self.min_reward_std:
            return REWARD_STD
        return ""


def is_informative(group: GroupComponents, *, gated: bool, min_range: Mapping[str, float]) -> bool:
    """Whether the outcome varies, or a weighted component does among siblings whose reward it can change."""
    right = [is_right(e) for e in group.episodes]
    if any(right) and not all(right):
        return True
    if gated and not any(right):
        return False
    return any(
        not is_constant(name, values, min_range=min_range) for name, values in columns(group).items() if name != OUTCOME
    )
