"""GDPO: normalises each component alone, so that a wide component does not hide a narrow one (arXiv 2601.05242).

It differs from the paper in two points (method.md §3). Cost, latency and calls are normalised over the *right* siblings
only, because a cheap wrong answer must not look best. Right siblings are raised to at least the best wrong one, because
an expensive right answer must not rank below a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from toolorchestra.rewards.advantage import standardise, standardise_groups
from toolorchestra.rewards.columns import OUTCOME, columns, is_constant, is_right, weighted_sums
from toolorchestra.rewards.component import GroupComponents, GroupReward
from toolorchestra.rewards.filters import GroupFilter


@dataclass(frozen=True, kw_only=True)
class GDPO:
    """Rewards are weighted sums of standardised components. Advantages are centred in their group and scaled by the
    batch's standard deviation.

    The batch is all groups that the filters keep: a group that does not train must not scale the others. Without the
    raising of right siblings, every group's rewards are centred already, so this is the paper's normalisation over the
    batch. The raising moves a group's mean; that must not become an advantage over siblings of other groups. (A group
    of equal siblings would be pushed away from everything it did.) Rewards only compare siblings: their mean over time
    is no learning curve. `gate` false switches the raising off. `minRewardStd` does not apply, because rewards have no
    fixed scale.
    """

    min_range: Mapping[str, float] = field(default_factory=dict[str, float])
    informative: bool = False
    gate: bool = True

    def __call__(self, groups: Sequence[GroupComponents]) -> list[GroupReward]:
        group_filter = GroupFilter(
            min_reward_std=None, informative=self.informative, gated=True, min_range=self.min_range
        )
        rewards = [self._rewards(group) for group in groups]
        reasons = [group_filter.reason(group, r) for group, r in zip(groups, rewards, strict=True)]
        advantages = iter(standardise_groups([r for r, reason in zip(rewards, reasons, strict=True) if not reason]))
        return [
            GroupReward(
                rewards=r,
                advantages=(0.0,) * len(r) if reason else next(advantages),
                keep=not reason,
                reason=reason,
            )
            for r, reason in zip(rewards, reasons, strict=True)
        ]

    def _rewards(self, group: GroupComponents) -> tuple[float, ...]:
        right = [is_right(e) for e in group.episodes]
        shares = [
            [group.weights[name] * z for z in self._standardised(name, values, right=right)]
            for name, values in columns(group).items()
        ]
        sums = weighted_sums(shares, siblings=len(right))
        return tuple(lifted(sums, right) if self.gate else sums)

    def _standardised(self, name: str, values: Sequence[float], *, right: Sequence[bool]) -> list[float]:
        """Return z-scores: of the outcome over all siblings; of another component over the right ones, 0 elsewhere."""
        measured = [name == OUTCOME or r for r in right]
        sub = [v for v, m in zip(values, measured, strict=True) if m]
        if is_constant(name, sub, min_range=self.min_range):
            return [0.0] * len(values)
        scores = iter(standardise(sub))
        return [next(scores) if m else 0.0 for m in measured]


def lifted(sums: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Return the sums, with right siblings raised to at least the best wrong one."""
    floor = max((s for s, r in zip(sums, right, strict=True) if not r), default=-math.inf)
    return [max(s, floor) if r else s for s, r in zip(sums, right, strict=True)]
