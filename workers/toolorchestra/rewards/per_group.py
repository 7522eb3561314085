"""Shared parts of the combiners that score each group alone: the filter, and advantages centred in the group."""

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
    """A combiner whose rewards of a group depend on that group only.

    `min_range` is in the raw unit of each component. The combiner decides what a smaller spread means.
    """

    gated: ClassVar[bool]
    """Whether the cost, latency and calls of a wrong episode do not count."""

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
        """Return one reward per episode, in order."""
