"""What a plug-in's combiner gives, held against the contract of `Combiner`, before anything is trained on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

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

    def _check(self, given: object, *, episodes: int) -> None:
        if not isinstance(given, GroupReward):
            raise PluginError(f"combiner {self.name} gave a {type(given).__name__} for a group; want a GroupReward")
        for what, numbers in (("rewards", given.rewards), ("advantages", given.advantages)):
            if len(numbers) != episodes:
                raise PluginError(f"combiner {self.name} gave {len(numbers)} {what} for {episodes} episodes")
            if not all(map(_is_finite, numbers)):
                raise PluginError(f"combiner {self.name} gave {what} that are not finite numbers: {numbers}")


def _is_finite(number: object) -> bool:
    """Return whether it is a finite number; numpy's count too."""
    return isinstance(number, Real) and math.isfinite(number)
