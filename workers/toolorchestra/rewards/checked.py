"""What a plug-in's combiner gives, held against the contract of `Combiner`, before anything is trained on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from toolorchestra.plugins import PluginError, shown
from toolorchestra.rewards.component import Combiner, GroupComponents, GroupReward


@dataclass(frozen=True)
class CheckedCombiner:
    """`combiner`, known as `name`. PluginError where it raises, or gives other than one finite reward and one finite
    advantage for each episode of each group."""

    name: str
    combiner: Combiner

    def __call__(self, groups: Sequence[GroupComponents]) -> list[GroupReward]:
        try:
            given = list(self.combiner(groups))
        except Exception as error:
            raise PluginError(f"combiner {self.name} raised {shown(error)}") from error
        if len(given) != len(groups):
            raise PluginError(f"combiner {self.name} gave {len(given)} results for {len(groups)} groups")
        for group, reward in zip(groups, given, strict=True):
            self._check(reward, episodes=len(group.episodes))
        return given

    def _check(self, given: GroupReward, *, episodes: int) -> None:
        for what, numbers in (("rewards", given.rewards), ("advantages", given.advantages)):
            if len(numbers) != episodes:
                raise PluginError(f"combiner {self.name} gave {len(numbers)} {what} for {episodes} episodes")
            if not all(map(math.isfinite, numbers)):
                raise PluginError(f"combiner {self.name} gave {what} that are not finite: {numbers}")
