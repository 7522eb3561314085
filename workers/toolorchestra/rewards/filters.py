"""Filters: drop groups from the backward pass if their siblings cannot be told apart.

`minRewardStd` (0.1 in the paper) is a threshold for the sample standard deviation of the rewards. `informative`
replaces that threshold with a look at the components: a group stays if its outcome varies or if any weighted component
varies. (With both, only the threshold would matter, because it is the stricter one.) If a combiner gives wrong episodes
nothing for their cost (`gated`), the cost of a wrong episode never counts: a group that is all wrong has no signal.
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
    """The filter of groups. `min_reward_std` None: no threshold. `min_range` is per component, in its raw unit."""

    min_reward_std: float | None = 0.1
    informative: bool = False
    gated: bool = True
    min_range: Mapping[str, float] = field(default_factory=dict[str, float])

    def reason(self, group: GroupComponents, rewards: Sequence[float]) -> str:
        """Return why the group is dropped (one of the reasons above); empty if it trains."""
        if len(rewards) < 2:
            return TOO_FEW_SCORED
        if self.informative:
            return "" if is_informative(group, gated=self.gated, min_range=self.min_range) else UNINFORMATIVE
        if self.min_reward_std is not None and sample_std(rewards) < self.min_reward_std:
            return REWARD_STD
        return ""


def is_informative(group: GroupComponents, *, gated: bool, min_range: Mapping[str, float]) -> bool:
    """Return whether the outcome varies, or a weighted component among the siblings whose reward it can change."""
    right = [is_right(e) for e in group.episodes]
    if any(right) and not all(right):
        return True
    if gated and not any(right):
        return False
    return any(
        not is_constant(name, values, min_range=min_range) for name, values in columns(group).items() if name != OUTCOME
    )
