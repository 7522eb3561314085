"""What the combiners share that look at one group at a time: its filter, and advantages centred in the group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from toolorchestra.rewards.advantage import standardise
from toolorchestra.rewards.component import GroupComponents, GroupReward
from toolorchestra.rewards.filters import GroupFilter


@dataclass(frozen=True, kw_only=True)
class PerGroup(ABC):
    """A combiner whose rewards of one group follow from that group alone.

    `min_range` is in the raw unit of each component; what a smaller spread means is the combiner's to say.
    """

    gated: ClassVar[bool]
    """Whether a wrong episode gets nothing for what it cost."""

    min_range: Mapping[str, float] = field(default_factory=dict[str, float])
    min_reward_std: float | None = 0.1
    informative: bool = False

    def __call__(self, groups: Sequence[GroupComponents]) -> list[GroupReward]:
        return [self._group(group) for group in groups]

    def _group(self, group: GroupComponents) -> GroupReward:
        rewards = self._rewards(group)
        reason = GroupFilter(
            min_reward_std=self.min_reward_std,
            informative=self.informative,
            gated=self.gated,
            min_range=self.min_range,
        ).reason(group, rewards)
        return GroupReward(rewards=rewards, advantages=standardise(rewards), keep=not reason, reason=reason)

    @abstractmethod
    def _rewards(self, group: GroupComponents) -> tuple[float, ...]:
        """One per episode, in order."""
